//! Values that are worth trying in the fields of a request, good ones and bad ones.

use ibyok::domain::scope::Scope;
use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, Value};

use crate::dice::Dice;

/// Stands in every provider key that a script stores, and nowhere else.
pub const SECRET_CANARY: &str = "fuzz-secret-canary";
/// Stands in inputs that are no secrets; a refusal and the log repeat neither.
pub const INPUT_CANARY: &str = "iNpUt-cAnArY";
/// Stands in what the organization `acme` stores.
pub const ACME_CANARY: &str = "only-acme-knows";
/// How the header of every token begins.
pub const TOKEN_SHAPE: &str = "eyJ0eXAi";

/// Texts that some field takes.
const GOOD: &[&str] = &[
    "orgs/acme",
    "orgs/beta",
    "orgs/system",
    "acme",
    "stock",
    "a",
    "orgs/acme/keys/stock",
    "orgs/acme/keys/a",
    "orgs/beta/keys/stock",
    "stock/versions/1",
    "orgs/acme/keys/stock/versions/2",
    "keys/a/versions/1",
    "orgs/acme/bindings/stock",
    "orgs/acme/groups/g",
    "orgs/acme/**",
    "orgs/acme/keys/*",
    "orgs/acme/keys/a*",
    "openai",
    "anthropic",
    "azure-openai",
    "custom",
    "ollama",
    "gpt-5",
    "claude-*",
    "production",
    "team",
    "only-acme-knows",
    "svc.fuzz.test",
    "spiffe://fuzz.test/admin",
    "spiffe://fuzz.test/*",
    "spiffe://neighbour.test/admin",
    "10.0.0.0/8",
    "::/0",
    "127.0.0.1/32",
    "https://api.example.com/v1",
    "http://localhost:11434",
    "authorization",
    "Bearer ",
    "description",
    "labels",
    "display_name",
    "environment",
    "rotation_policy",
    "*",
    "6f1e2a1c-0000-4000-8000-000000000001",
    "request-1",
    "reader",
];

/// What no field should fall over.
const BAD: &[&str] = &[
    "",
    " ",
    "/",
    "-",
    ".",
    "..",
    "orgs/",
    "orgs//keys/",
    "orgs/acme/keys/stock/",
    "versions/0",
    "stock/versions/4294967296",
    "stock/versions/-1",
    "stock/versions/01",
    "iNpUt-cAnArY",
    "orgs/iNpUt-cAnArY",
    "orgs/acme/keys/iNpUt-cAnArY",
    "orgs/acme/keys/iNpUt-cAnArY/versions/1",
    "iNpUt-cAnArY.1",
    "secret.iNpUt-cAnArY",
    "https://iNpUt-cAnArY@example.com",
    "https://[::1",
    "http://169.254.169.254/",
    "file:///etc/passwd",
    "10.0.0.0/33",
    "1.2.3.4/-1",
    "\u{0}",
    "\n",
    "\u{7f}",
    "\u{feff}",
    "\u{202e}abc",
    "\u{e9}",
    "e\u{301}",
    "\u{1f511}",
    "\u{10ffff}",
    "ß",
    "İ",
    "%2f",
    "%00",
    "'; --",
    "${x}",
    "#",
    "O#acme",
    "K#a#b",
];

/// Names of fields in answers that a later request may quote.
const QUOTES: &[&str] = &[
    "name",
    "etag",
    "next_page_token",
    "resume_token",
    "id",
    "text",
    "event_id",
    "uid",
    "subject",
    "request_id",
    "key",
];

/// Lengths around the limits, in bytes.
const LENGTHS: [usize; 14] = [20, 63, 64, 100, 101, 255, 256, 257, 2_048, 4_097, 16_384, 16_385, 65_536, 70_000];

/// A text for a field.
pub fn text(dice: &Dice, is_secret: bool) -> String {
    if is_secret {
        return secret(dice);
    }
    match dice.below(20) {
        0..8 => (*dice.pick(GOOD)).to_owned(),
        8..12 => (*dice.pick(BAD)).to_owned(),
        12..14 => dice.pick(Scope::ALL).as_str().to_owned(),
        14..17 => format!("{{{{{}}}}}", dice.pick(QUOTES)),
        17 => format!("{{{{long {}}}}}", dice.pick(&LENGTHS)),
        18 => dice.pick(&["a", "é", "/", "*"]).repeat(*dice.pick(&[2, 63, 64, 128, 129, 256, 257])),
        _ => format!("{}{}", dice.pick(GOOD), dice.pick(BAD)),
    }
}

fn secret(dice: &Dice) -> String {
    match dice.below(10) {
        0 => String::new(),
        1 => "{{text}}".to_owned(),
        2 => format!(" {SECRET_CANARY}\n"),
        3 => format!("{{{{long {}}}}}", dice.pick(&LENGTHS)),
        4 => format!("sk-ant-api03-{SECRET_CANARY}{}", "A".repeat(dice.below(120))),
        5 => format!("sk-{SECRET_CANARY}{}", "A".repeat(dice.below(60))),
        6 => format!("{SECRET_CANARY}\u{0}{}", dice.pick(BAD)),
        _ => format!("{SECRET_CANARY}-{}", dice.below(4)),
    }
}

/// A value for one element of `field`.
pub fn value(dice: &Dice, field: &FieldDescriptor, depth: usize) -> Value {
    let is_secret = field.parent_message().full_name() == "ibyok.v1.SecretValue";
    match field.kind() {
        Kind::Bool => Value::Bool(dice.one_in(2)),
        Kind::String => Value::String(text(dice, is_secret)),
        Kind::Bytes => Value::Bytes((0..dice.below(40)).map(|_| dice.next().to_le_bytes()[0]).collect()),
        Kind::Double => Value::F64(*dice.pick(&[0.0, -0.0, 0.5, 1.0, -1.0, f64::NAN, f64::INFINITY, f64::MIN])),
        Kind::Float => Value::F32(*dice.pick(&[0.0, 0.5, -1.0, f32::NAN, f32::INFINITY])),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(i32::try_from(clamped(dice)).unwrap_or(i32::MIN)),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(u32::try_from(clamped(dice)).unwrap_or(u32::MAX)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(clamped(dice)),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::try_from(clamped(dice)).unwrap_or(u64::MAX)),
        Kind::Enum(kind) => Value::EnumNumber(number(dice, &kind)),
        Kind::Message(message) => {
            let mut made = DynamicMessage::new(message.clone());
            for field in message.fields() {
                if depth < 4 && dice.one_in(2) {
                    let value = whole(dice, &field, depth + 1);
                    made.set_field(&field, value);
                }
            }
            Value::Message(made)
        }
    }
}

/// A value for `field`, be it one, a list or a map.
pub fn whole(dice: &Dice, field: &FieldDescriptor, depth: usize) -> Value {
    if field.is_map() {
        let entries = (0..dice.below(4)).map(|_| (MapKey::String(text(dice, false)), map_value(dice, field, depth)));
        return match field.kind().as_message().map(|entry| entry.map_entry_key_field().kind()) {
            Some(Kind::String) => Value::Map(entries.collect()),
            _ => Value::Map([].into()),
        };
    }
    if field.is_list() {
        let many = *dice.pick(&[0, 1, 1, 1, 2, 2, 3, 17, 41, 65]);
        let one = value(dice, field, depth);
        return Value::List(if many > 3 {
            vec![one; many]
        } else {
            (0..many).map(|_| value(dice, field, depth)).collect()
        });
    }
    value(dice, field, depth)
}

fn map_value(dice: &Dice, field: &FieldDescriptor, depth: usize) -> Value {
    match field.kind() {
        Kind::Message(entry) => value(dice, &entry.map_entry_value_field(), depth),
        _ => Value::String(String::new()),
    }
}

/// A number that something may hinge on.
fn clamped(dice: &Dice) -> i64 {
    let near = i64::try_from(dice.below(3)).unwrap() - 1;
    let base = *dice.pick(&[
        0,
        0,
        1,
        2,
        8,
        40,
        50,
        60,
        1_000,
        3_600,
        86_400,
        90 * 86_400,
        i64::from(i32::MAX),
        i64::from(i32::MIN),
        i64::from(u32::MAX),
        253_402_300_800,
        -62_135_596_800,
        1_750_000_000,
        999_999_999,
        i64::MAX,
        i64::MIN,
        i64::MAX / 1_000_000,
    ]);
    base.saturating_add(near)
}

fn number(dice: &Dice, kind: &EnumDescriptor) -> i32 {
    let known: Vec<i32> = kind.values().map(|value| value.number()).collect();
    match dice.below(8) {
        0 => -1,
        1 => i32::MAX,
        2 => i32::try_from(known.len()).unwrap_or(0),
        _ => *dice.pick(&known),
    }
}
