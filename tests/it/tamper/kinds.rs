//! Every kind of item that a vault may hold, and what guards it. An item of no kind fails the
//! tests: whoever adds one says here what happens when the database's writer changes it.

use regex::Regex;

/// What guards an item against who can write the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A record MAC.
    Mac,
    /// A record MAC and, under it, a sealed value; some of the kind have none (an entry without a
    /// key, a destroyed version).
    MacAndSeal,
    /// Nothing: it leads to guarded items, or says when something was used, and nothing is decided
    /// by it.
    Nothing,
}

/// One kind.
pub struct Kind {
    pub name: &'static str,
    pub guard: Guard,
    partition: Regex,
    sort: Regex,
}

/// Name, guard, partition, sort key.
const KINDS: &[(&str, Guard, &str, &str)] = &[
    ("init marker", Guard::Mac, "SYS", "INIT"),
    ("record-MAC key", Guard::MacAndSeal, "SYS", "RECMAC#[0-9A-Za-z_-]+"),
    ("signing key", Guard::MacAndSeal, "SYS", "SIGN#[0-9A-Za-z_-]+"),
    ("page key", Guard::MacAndSeal, "SYS", "PAGE#[0-9A-Za-z_-]+"),
    ("organization row", Guard::Nothing, "ORGS", "{org}"),
    ("organization", Guard::Mac, "O#{org}", "ORG"),
    ("fingerprint key", Guard::MacAndSeal, "O#{org}", "FPKEY"),
    ("epoch", Guard::Mac, "O#{org}#E#[0-9a-f]", "EPOCH"),
    ("subject", Guard::Mac, "O#{org}#S#{hash}", "SUBJ"),
    ("token", Guard::Mac, "O#{org}#T#{hash}", "META"),
    ("token uses", Guard::Mac, "O#{org}#T#{hash}", "USES"),
    ("token row", Guard::Nothing, "O#{org}#TOKENS", ".+"),
    ("binding", Guard::Mac, "O#{org}#BIND", ".+"),
    ("key", Guard::MacAndSeal, "O#{org}#K#[^#]+", "META"),
    ("last version of a destroyed key", Guard::Mac, "O#{org}#K#[^#]+", "LAST"),
    ("key version", Guard::MacAndSeal, "O#{org}#K#[^#]+", "V#[0-9]{8}"),
    ("key row", Guard::Nothing, "O#{org}#KEYS", "[^#]+#[^#]+"),
    ("provider route", Guard::Nothing, "O#{org}#R#provider:.+", ".+"),
    ("model route", Guard::Nothing, "O#{org}#R#model:.+", ".+"),
    ("fingerprint", Guard::Nothing, "O#{org}#FP", "[0-9a-f]+#[^#]+#[0-9]{8}"),
    ("request", Guard::Mac, "O#{org}#IDEM#{hash}", "R"),
    ("key last used", Guard::Nothing, "O#{org}#LU", "K#.+"),
    ("token last used", Guard::Nothing, "O#{org}#LU", "T#{hash}"),
    ("consumers", Guard::Nothing, "O#{org}#C#[^#]+", "[a-z2-7]{26}"),
    ("usage of an hour", Guard::Nothing, "O#{org}#U#[0-9]+", "H#[0-9]{2}#[0-9a-f]"),
    ("usage of a day", Guard::Nothing, "O#{org}#U#[0-9]+", "D#[0-9a-f]"),
    ("audit index", Guard::Nothing, "O#{org}#A#[0-9]+", "[0-9]+"),
    ("audit index day", Guard::Nothing, "O#{org}#A", "[0-9]+"),
    ("due", Guard::Nothing, "DUE#[0-9]+#[0-9a-f]", "[0-9]{20}#{org}#key#.+"),
    ("audit batch", Guard::Mac, "A#{chain}#[0-9]+", "B#[0-9]{16}"),
    ("audit run", Guard::Mac, "A#{chain}#[0-9]+", "P#[0-9]{16}"),
    ("audit head", Guard::Mac, "A#HEADS", "{chain}"),
    ("audit open chain", Guard::Nothing, "A#OPEN", "{chain}"),
    ("audit order", Guard::Mac, "A#LOG#[0-9]+", "[0-9]+"),
    ("audit progress", Guard::Mac, "A#SEQ", "LOG|INDEX|ARCHIVE"),
    ("audit archive root", Guard::Mac, "A#ROOTS", "[0-9]{20}"),
    ("projection", Guard::Mac, "PROJ", "[a-z-]+"),
    ("lease", Guard::Mac, "LEASE", "(sequencer|janitor|archivist)#TERM"),
];

/// All of them.
pub fn kinds() -> Vec<Kind> {
    let regex = |text: &str| {
        let text = text
            .replace("{org}", "[a-z0-9-]+")
            .replace("{hash}", "[0-9a-f]{64}")
            .replace("{chain}", "[0-9a-f]{16}-[sm][0-9a-f]{6,8}");
        Regex::new(&format!("^(?:{text})$")).unwrap()
    };
    let kind = |&(name, guard, partition, sort): &(_, _, &str, &str)| Kind {
        name,
        guard,
        partition: regex(partition),
        sort: regex(sort),
    };
    KINDS.iter().map(kind).collect()
}

/// The kind of the item at that place.
pub fn kind_of<'a>(kinds: &'a [Kind], partition: &str, sort: &str) -> &'a Kind {
    let mut found = kinds.iter().filter(|kind| kind.partition.is_match(partition) && kind.sort.is_match(sort));
    let kind = found.next().unwrap_or_else(|| panic!("{partition} / {sort} is of no kind that is known: classify it"));
    assert!(found.next().is_none(), "{partition} / {sort} is of two kinds");
    kind
}
