use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

fn table() -> &'static Providers {
    static TABLE: OnceLock<Providers> = OnceLock::new();
    TABLE.get_or_init(|| Providers::load(None).unwrap())
}

fn secret(text: &str) -> ProviderKey {
    ProviderKey::parse("secret", text.to_owned()).unwrap()
}

fn id(text: &str) -> ProviderId {
    ProviderId::parse("provider", text).unwrap()
}

fn found(text: &str) -> Vec<(String, Confidence)> {
    let candidates = table().detect_secret(&secret(text));
    candidates.into_iter().map(|found| (found.provider.to_string(), found.confidence)).collect()
}

/// One key of every certain shape, made here: none was ever a real one.
fn shapes() -> Vec<(&'static str, String)> {
    let (a, hex) = (|n: usize| "aB3-_".repeat(60)[..n].to_owned(), |n: usize| "0a9f".repeat(80)[..n].to_owned());
    let alnum = |n: usize| "aB3d9".repeat(80)[..n].to_owned();
    vec![
        ("openai", format!("sk-proj-{}T3BlbkFJ{}", a(74), a(74))),
        ("openai", format!("sk-svcacct-{}T3BlbkFJ{}", a(58), a(58))),
        ("openai", format!("sk-admin-{}T3BlbkFJ{}", a(20), a(20))),
        ("openai", format!("sk-{}T3BlbkFJ{}", alnum(20), alnum(20))),
        ("anthropic", format!("sk-ant-api03-{}AA", a(93))),
        ("anthropic", format!("sk-ant-admin01-{}AA", a(93))),
        ("anthropic", format!("sk-ant-oat01-{}", a(60))),
        ("anthropic", format!("sk-ant-ort01-{}", a(60))),
        ("google", format!("AIza{}", a(35))),
        ("google", format!("AQ.{}", a(40))),
        ("groq", format!("gsk_{}", alnum(52))),
        ("xai", format!("xai-{}", a(80))),
        ("openrouter", format!("sk-or-v1-{}", hex(64))),
        ("perplexity", format!("pplx-{}", alnum(48))),
        ("huggingface", format!("hf_{}", alnum(34))),
        ("huggingface", format!("api_org_{}", alnum(34))),
        ("replicate", format!("r8_{}", a(37))),
        ("together", format!("tgp_v1_{}", a(43))),
        ("fireworks", format!("fw_{}", alnum(24))),
        ("cerebras", format!("csk-{}", hex(48))),
        ("nvidia", format!("nvapi-{}", a(64))),
        ("bedrock", format!("ABSK{}=", alnum(128))),
        ("bedrock", format!("bedrock-api-key-{}", alnum(80))),
        ("databricks", format!("dapi{}-2", hex(32))),
        ("vercel", format!("vck_{}", a(56))),
        ("elevenlabs", format!("sk_{}", hex(48))),
        ("voyage", format!("pa-{}", a(43))),
        ("runpod", format!("rpa_{}abcDEF", "A1".repeat(20))),
        ("langsmith", format!("lsv2_pt_{}_{}", hex(32), hex(10))),
    ]
}

#[test]
fn every_certain_shape_is_detected_alone() {
    for (provider, text) in shapes() {
        assert_eq!(found(&text), [(provider.to_owned(), Confidence::Certain)], "{provider}");
        assert_eq!(
            found(&format!(" {text}\n")),
            [(provider.to_owned(), Confidence::Certain)],
            "{provider}, whitespace"
        );
    }
}

#[test]
fn patterns_are_matched_whole() {
    for (provider, text) in shapes() {
        let spoiled = format!("{text}!");
        assert!(found(&spoiled).iter().all(|(_, confidence)| *confidence < Confidence::Certain), "{provider}");
    }
}

#[test]
fn a_known_prefix_with_a_new_shape_is_a_strong_hint_by_the_longest_prefix() {
    assert_eq!(found("sk-ant-api03-short")[0], ("anthropic".to_owned(), Confidence::High));
    assert_eq!(found("sk-or-v1-short")[0], ("openrouter".to_owned(), Confidence::High));
    assert_eq!(found("sk-proj-0123456789abcdefg")[0], ("openai".to_owned(), Confidence::High));
}

#[test]
fn ambiguous_shapes_answer_their_candidates() {
    let names = |text: &str| found(text).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let hex = "0a9f".repeat(8);
    assert_eq!(names(&format!("sk-{hex}")), ["deepseek", "dashscope", "openai", "stability", "moonshot"]);
    assert_eq!(names(&format!("sk-{}", "aB3d".repeat(12)))[..2], ["stability", "moonshot"]);
    assert_eq!(names(&"aB3d".repeat(10)), ["cohere", "deepgram"]);
    assert_eq!(names(&"aB3d".repeat(8)), ["mistral"]);
    assert_eq!(names(&hex), ["mistral", "azure-openai", "assemblyai"]);
    assert_eq!(names(&"aB3d".repeat(21)), ["azure-openai"]);
    assert_eq!(names(&format!("{hex}.{}", "aB3d".repeat(4))), ["zhipu"]);
    assert_eq!(names("123e4567-e89b-12d3-a456-426614174000"), ["ai21"]);
    assert!(found(&hex).iter().all(|(_, confidence)| *confidence == Confidence::Low));
    assert!(names("nothing like a key").is_empty());
}

#[test]
fn administration_keys_are_of_their_own_kind_and_warned_of() {
    for (_, text) in shapes() {
        let key = secret(&text);
        let is_admin = text.contains("admin");
        assert_eq!(table().kind_of(&key) == Some(KeyKind::ProviderAdmin), is_admin);
        let provider = table().detect_secret(&key)[0].provider.clone();
        assert_eq!(table().warnings(&key, &provider).contains(&Warning::AdministrationKey), is_admin);
        assert_eq!(table().warnings(&key, &provider).contains(&Warning::RefreshToken), text.contains("-ort01-"));
    }
}

#[test]
fn warnings_name_what_is_odd() {
    let warnings = |text: &str, provider: &str| table().warnings(&secret(text), &id(provider));
    let groq = format!("gsk_{}", "aB3d".repeat(13));
    assert_eq!(warnings(&groq, "groq"), []);
    assert_eq!(warnings(&groq, "custom"), []);
    assert_eq!(warnings(&groq, "openai"), [Warning::ProviderMismatch]);
    assert_eq!(warnings(&format!("{groq}\n"), "groq"), [Warning::SurroundingWhitespace]);
    for text in ["your-api-key-goes-here", "sk-xxxxxxxxxxxxxxxxxxxx", "<API KEY HERE>", "aaaaaaaaaaaaaaa", "short"] {
        assert!(warnings(text, "mistral").contains(&Warning::LooksLikePlaceholder), "{text}");
    }
    assert_eq!(warnings(&"aB3d".repeat(8), "cohere"), [], "an ambiguous shape says nothing against a named provider");
}

#[test]
fn models_belong_to_the_longest_pattern() {
    let names = |model: &str| {
        let found = table().detect_model(model);
        found.into_iter().map(|found| found.provider.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names("gpt-4o"), ["openai"]);
    assert_eq!(names("o3-mini"), ["openai"]);
    assert_eq!(names("claude-sonnet-4"), ["anthropic"]);
    assert_eq!(names("gemini-2.5-pro"), ["google"]);
    assert_eq!(names("eleven_turbo_v2"), ["elevenlabs"]);
    assert_eq!(names("open-mistral-7b"), ["mistral"]);
    assert!(names("unheard-of").is_empty());
}

#[test]
fn every_row_is_whole() {
    let table = table();
    assert!(table.all().count() >= 34);
    for row in table.all() {
        if !row.base_url.is_empty() {
            crate::domain::key::input::check_base_url("base_url", &row.base_url, &[]).unwrap();
        }
        crate::domain::key::input::check_auth_scheme("auth_scheme", &row.auth_scheme).unwrap();
        assert_eq!(row.base_url.is_empty(), ["azure-openai", "custom", "databricks"].contains(&row.id.as_str()));
        assert_eq!(row.env_var.is_empty(), row.id.as_str() == "custom", "{}", row.id);
    }
}

#[test]
fn a_configuration_adds_rows_and_patterns_and_replaces_rows() {
    let extra = r#"
        [[provider]]
        id = "acme-llm"
        name = "Acme"
        base_url = "https://llm.acme.example"
        [[pattern]]
        provider = ["acme-llm"]
        prefix = "acme_"
        regex = 'acme_[0-9]{20}'
        rule = "acme"
        [[provider]]
        id = "openai"
        name = "OpenAI, by our gateway"
        base_url = "https://gateway.acme.example/v1"
    "#;
    let table = Providers::load(Some(extra)).unwrap();
    assert_eq!(table.detect_secret(&secret("acme_01234567890123456789"))[0].provider, id("acme-llm"));
    assert_eq!(table.get(&id("openai")).unwrap().base_url, "https://gateway.acme.example/v1");
    assert_eq!(table.get(&id("acme-llm")).unwrap().auth_scheme.prefix, "Bearer ");
    assert!(table.mock_value(&id("acme-llm"), "k", 1).contains("MOCK"));
}

#[test]
fn a_broken_configuration_is_refused() {
    for extra in [
        "[[provider]]\nid = 'A b'\nname = ''\nbase_url = ''",
        "[[pattern]]\nprovider = ['nobody']\nregex = 'a'\nrule = 'r'",
        "[[pattern]]\nprovider = ['openai']\nregex = '('\nrule = 'r'",
        "[[pattern]]\nprovider = ['openai']\nregex = 'a'\nrule = 'r'\nkind = 'X'",
        "[[provider]]\nid = 'a'\nname = ''\nbase_url = ''\nmock = 'looks-real'",
        "unknown = 1",
    ] {
        assert!(Providers::load(Some(extra)).is_err(), "{extra}");
    }
}

#[test]
fn a_made_up_key_is_always_the_same_says_so_and_differs_by_name_and_version() {
    let table = table();
    for row in table.all() {
        let value = |name: &str, version| table.mock_value(&row.id, name, version);
        assert!(value("k", 1).contains("MOCK"), "{}", row.id);
        assert_eq!(value("k", 1), value("k", 1));
        assert_ne!(value("k", 1), value("k", 2));
        assert_ne!(value("k", 1), value("l", 1));
        assert!(!value("k", 1).contains(['{', '}']));
        assert!(!value("k", 1).contains("T3BlbkFJ"));
    }
    let (openai, shape) = (table.mock_value(&id("openai"), "k", 1), &shapes()[0].1);
    assert_eq!(openai.len(), shape.len() - 4, "of about the real one's length");
}

proptest! {
    /// Detection takes any text, never panics, and repeats nothing of it.
    #[test]
    fn detection_takes_anything(text in "\\PC{1,300}") {
        prop_assume!(!text.trim().is_empty());
        let table = table();
        for found in table.detect_secret(&secret(&text)) {
            prop_assert!(table.get(&found.provider).is_some());
        }
        prop_assert!(table.warnings(&secret(&text), &id("openai")).len() <= 4);
    }
}
