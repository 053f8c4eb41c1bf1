use std::path::Path;

use super::*;

const SMALLEST: &str = r#"
[tls]
cert = "server.pem"
key = "server.key"
client_ca = "/etc/ca.pem"
[store]
path = "vault.db"
[kms]
key_file = "master.keys"
"#;

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::parse(text, PathBuf::from("/base"), environment)
}

fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    parse(text, environment).unwrap_err().problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_smallest_file_has_defaults_and_paths_relative_to_it() {
    let config = parse(SMALLEST, &[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:7443");
    assert_eq!(config.tls.cert, PathBuf::from("/base/server.pem"));
    assert_eq!(config.tls.client_ca, PathBuf::from("/etc/ca.pem"));
    assert_eq!(config.tokens.ttl_default, Duration::from_secs(3_600));
    assert_eq!(config.tokens.ttl_longest, Duration::from_secs(90 * 86_400));
    assert!(matches!(config.kms, KmsConfig::LocalFile { path } if path == Path::new("/base/master.keys")));
}

#[test]
fn the_environment_goes_before_the_file() {
    let config = parse(
        SMALLEST,
        &[
            ("IBYOK_SERVER_LISTEN", "[::1]:0"),
            ("IBYOK_SERVER_TLS_CLIENT_CA", "ca.pem"),
            ("IBYOK_SERVER_TOKENS_TTL_DEFAULT", "1h30m"),
            ("IBYOK_SERVER_LIMITS_CALLS", "7"),
            ("IBYOK_SERVER_PROVIDERS_PLAIN_HOSTS", "ollama.lan, gpu.lan"),
            ("IBYOK_SERVER_LOG_FORMAT", "json"),
            ("IBYOK_SERVER_NAME", "a client's"),
        ],
    )
    .unwrap();
    assert_eq!(config.listen.to_string(), "[::1]:0");
    assert_eq!(config.tls.client_ca, PathBuf::from("ca.pem"));
    assert_eq!(config.tokens.ttl_default, Duration::from_secs(5_400));
    assert_eq!(config.limits.calls, 7);
    assert_eq!(config.providers.plain_hosts, ["ollama.lan", "gpu.lan"]);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn every_problem_is_named_at_once_and_no_value_is_repeated() {
    let text = "listen = \"sk-secret\"\ncolour = 1\n[tls]\ncert = 3\nchiper = \"x\"\n[log]\nformat = \"xml\"\n";
    let found = problems(text, &[("IBYOK_SERVER_LIMITS_CALLS", "0"), ("IBYOK_SERVER_TSL_CERT", "x")]);
    for expected in [
        "listen: must be an address and port such as 127.0.0.1:7443",
        "tls.cert: must be a path",
        "tls.key: needed: a path",
        "store.path: needed: a path",
        "kms.key_file: needed: the file of master keys, or IBYOK_MASTER_KEY instead",
        "log.format: must be text or json",
        "IBYOK_SERVER_LIMITS_CALLS: must be a number from 1 to 100000",
        "IBYOK_SERVER_TSL_CERT: no such setting",
        "colour: no such setting",
        "tls.chiper: no such setting",
    ] {
        assert!(found.iter().any(|problem| problem == expected), "{expected}: {found:#?}");
    }
    assert_eq!(found.iter().filter(|problem| problem.starts_with("tls.cert")).count(), 1);
    assert!(!found.iter().any(|problem| problem.contains("secret")));
}

#[test]
fn what_is_no_toml_is_refused_by_its_line_alone() {
    assert_eq!(problems("[tls]\nkey = sk-secret\n", &[]), ["line 2: TOML"]);
    assert_eq!(problems("[tls]\n\n= 1\n", &[]), ["line 3: TOML"]);
    assert_eq!(problems("= 1", &[]), ["line 1: TOML"]);
}

#[test]
fn a_section_in_place_of_a_value_and_a_value_in_place_of_a_section_are_refused() {
    assert!(problems("tls = 3", &[]).iter().any(|problem| problem == "tls: no such setting"));
    let found = problems(&format!("{SMALLEST}[listen]\nport = 1\n"), &[]);
    assert!(found.iter().any(|problem| problem.starts_with("listen: must be")), "{found:?}");
    assert!(found.iter().any(|problem| problem == "listen.port: no such setting"), "{found:?}");
}

#[test]
fn the_master_key_comes_from_one_place() {
    let without = SMALLEST.replace("key_file = \"master.keys\"", "");
    let key = "00".repeat(32);
    let config = parse(&without, &[("IBYOK_MASTER_KEY", &key)]).unwrap();
    assert!(matches!(config.kms, KmsConfig::LocalKey { .. }));
    assert!(!format!("{config:?}").contains(&key));
    let both = problems(SMALLEST, &[("IBYOK_MASTER_KEY", &key)]);
    assert_eq!(both, ["kms.key_file: either this or IBYOK_MASTER_KEY, not both"]);
}

#[test]
fn the_kms_of_aws_has_its_settings_in_the_file_and_in_the_environment() {
    const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd";
    const OTHER_REGIONS: &str = "kms.recovery_regions: must be other regions than that of the primary";
    let with = |kms: &str, environment: &[(&str, &str)]| {
        parse(&SMALLEST.replace("key_file = \"master.keys\"", &format!("kind = \"aws\"\n{kms}")), environment)
    };
    let aws = |kms: &str, environment: &[(&str, &str)]| match with(kms, environment).unwrap().kms {
        KmsConfig::Aws(config) => config,
        other => panic!("{other:?}"),
    };
    let smallest = aws("key_id = \"alias/vault\"", &[]);
    assert_eq!((smallest.key_id.as_str(), smallest.aws), ("alias/vault", AwsConfig::default()));
    assert!(smallest.recovery_regions.is_empty());
    assert_eq!(aws(&format!("key_id = \"{ARN}\""), &[]).aws.region.as_deref(), Some("eu-west-1"), "the ARN says it");

    let whole = "key_id = \"k\"\nregion = \"eu-west-1\"\nfips = true\ndual_stack = true\n\
        recovery_regions = [\"us-east-1\", \"us-west-2\"]";
    let environment = [
        ("IBYOK_SERVER_KMS_KEY_ID", "k"),
        ("IBYOK_SERVER_KMS_REGION", "eu-west-1"),
        ("IBYOK_SERVER_KMS_FIPS", "true"),
        ("IBYOK_SERVER_KMS_DUAL_STACK", "true"),
        ("IBYOK_SERVER_KMS_RECOVERY_REGIONS", "us-east-1, us-west-2"),
    ];
    let whole = aws(whole, &[]);
    assert_eq!(whole, aws("", &environment));
    assert_eq!(whole.recovery_regions, [("us-east-1".to_owned(), None), ("us-west-2".to_owned(), None)].into());
    assert!(whole.aws.fips && whole.aws.dual_stack);
    let with_endpoint = aws("key_id = \"k\"\nrecovery_regions = [\"us-west-2=https://kms.example\"]", &[]);
    let expected = [("us-west-2".to_owned(), Some("https://kms.example".to_owned()))];
    assert_eq!(with_endpoint.recovery_regions, expected.into());

    let problem = |kms: &str| with(kms, &[]).unwrap_err().to_string();
    assert_eq!(problem(""), "kms.key_id: needed: the id, ARN or alias of a KMS key");
    let line = "kms.region: must be the region in the ARN of kms.key_id, or be left out";
    assert_eq!(problem(&format!("key_id = \"{ARN}\"\nregion = \"us-east-1\"")), line);
    let line = "kms.endpoint: either this or kms.fips and kms.dual_stack, not both";
    assert_eq!(problem("key_id = \"k\"\nfips = true\nendpoint = \"https://kms.example\""), line);
    for flag in ["fips", "dual_stack"] {
        let kms = format!("key_id = \"k\"\n{flag} = true\nrecovery_regions = [\"us-east-1=https://kms.example\"]");
        assert!(problem(&kms).starts_with("kms.recovery_regions: an entry is either"), "{}", problem(&kms));
    }
    for (kms, line) in [
        (format!("key_id = \"{ARN}\"\nrecovery_regions = [\"us-east-1\", \"eu-west-1\"]").as_str(), OTHER_REGIONS),
        ("key_id = \"k\"\nregion = \"eu-west-1\"\nrecovery_regions = [\"eu-west-1\"]", OTHER_REGIONS),
        ("key_id = \"k\"\nendpoint = \"http://kms.example\"", "kms.endpoint: must be an https URL"),
        ("key_id = \"k\"\nrecovery_regions = [\"Mars\"]", "kms.recovery_regions: must be a list of regions"),
        ("key_id = \"a b\"", "kms.key_id: must be the id, ARN or alias"),
        ("key_id = \"k\"\nfips = \"perhaps\"", "kms.fips: must be true or false"),
    ] {
        assert!(problem(kms).starts_with(line), "{}", problem(kms));
    }
}

#[test]
fn settings_of_the_other_kms_are_refused_as_such() {
    let found = problems(&SMALLEST.replace("[kms]\n", "[kms]\nregion = \"eu-west-1\"\n"), &[]);
    assert_eq!(found, ["kms.region: only with kms.kind = \"aws\""]);
    let found = problems(&SMALLEST.replace("[kms]\n", "[kms]\nkind = \"aws\"\nkey_id = \"k\"\n"), &[]);
    assert_eq!(found, ["kms.key_file: only with kms.kind = \"local\""]);
}

#[test]
fn the_default_life_of_a_token_is_at_most_the_longest() {
    let found = problems(&format!("{SMALLEST}[tokens]\nttl_longest = \"30m\"\n"), &[]);
    assert_eq!(found, ["tokens.ttl_default: at most tokens.ttl_longest"]);
}

#[test]
fn a_retention_needs_a_directory_and_at_least_a_day() {
    let with = |audit: &str| parse(&format!("{SMALLEST}[audit]\n{audit}"), &[]);
    assert_eq!(with("").unwrap().audit.archive, None);
    assert_eq!(with("archive_dir = \"archive\"").unwrap().audit.archive, None);
    let archive = with("retention = \"90d\"\narchive_dir = \"archive\"").unwrap().audit.archive.unwrap();
    assert_eq!((archive.retention, archive.dir), (DAY * 90, PathBuf::from("/base/archive")));
    let environment = [("IBYOK_SERVER_AUDIT_RETENTION", "30d"), ("IBYOK_SERVER_AUDIT_ARCHIVE_DIR", "/old")];
    let archive = parse(SMALLEST, &environment).unwrap().audit.archive.unwrap();
    assert_eq!((archive.retention, archive.dir), (DAY * 30, PathBuf::from("/old")));
    let problem = |audit: &str| with(audit).unwrap_err().to_string();
    assert_eq!(problem("retention = \"90d\""), "audit.archive_dir: needed with audit.retention: a path");
    assert!(problem("retention = \"23h\"\narchive_dir = \"a\"").starts_with("audit.retention: must be seconds"));
}

proptest::proptest! {
    /// Whatever stands in a setting, a refusal does not say it again, and what is taken means the
    /// same in the file and in the environment.
    #[test]
    fn a_value_is_never_repeated_and_means_the_same_in_both_places(
        text in "cAnArY[ -~]{0,20}|[0-9]{1,6}|[0-9]{1,4}[dhms]{1,2}|json|sqlite|\\[::1\\]:[0-9]{1,6}",
        setting in proptest::sample::select(SETTINGS.to_vec()),
    ) {
        let (section, name) = setting.split_once('.').unwrap_or(("", setting));
        let value = toml::Value::String(text.clone());
        // The section may stand in the smallest file, and `listen` in none.
        let file = match section {
            "" => format!("{name} = {value}\n{SMALLEST}"),
            "tls" | "store" | "kms" => SMALLEST.replace(&format!("[{section}]\n"), &format!("[{section}]\n{name} = {value}\n")),
            _ => format!("{SMALLEST}[{section}]\n{name} = {value}\n"),
        };
        let variable = format!("IBYOK_SERVER_{}", setting.replace('.', "_").to_ascii_uppercase());
        let (here, there) = (parse(&file, &[]), parse(SMALLEST, &[(&variable, &text)]));
        proptest::prop_assert_eq!(here.is_ok(), there.is_ok());
        match (here, there) {
            (Ok(here), Ok(there)) => proptest::prop_assert_eq!(format!("{here:?}"), format!("{there:?}")),
            (Err(here), Err(there)) => {
                let said = format!("{here} {there}");
                proptest::prop_assert!(!said.contains("cAnArY"), "{}", said);
            }
            _ => {}
        }
    }
}

const DYNAMODB: &str = r#"
[tls]
cert = "server.pem"
key = "server.key"
client_ca = "ca.pem"
[kms]
key_file = "master.keys"
[store]
kind = "dynamodb"
"#;

#[test]
fn a_table_of_dynamodb_is_named_and_placed() {
    let with = |store: &str| parse(&format!("{DYNAMODB}{store}"), &[]);
    let table = |store| match with(store).unwrap().store {
        StoreConfig::DynamoDb { table, kms_key, aws } => (table, kms_key, aws),
        other => panic!("{other:?}"),
    };
    assert_eq!(table("table = \"ibyok\""), ("ibyok".into(), None, AwsConfig::default()));
    let all =
        "table = \"i.b_y-ok\"\nregion = \"eu-central-1\"\nfips = true\ndual_stack = true\nkms_key = \"alias/vault\"";
    let aws = AwsConfig { region: Some("eu-central-1".into()), endpoint: None, fips: true, dual_stack: true };
    assert_eq!(table(all), ("i.b_y-ok".into(), Some("alias/vault".into()), aws));
    let (_, _, aws) = table("table = \"ibyok\"\nendpoint = \"http://127.0.0.1:8000\"");
    assert_eq!(aws.endpoint.as_deref(), Some("http://127.0.0.1:8000"));

    let environment = [("IBYOK_SERVER_STORE_TABLE", "there"), ("IBYOK_SERVER_STORE_FIPS", "true")];
    let config = parse(DYNAMODB, &environment).unwrap();
    assert!(matches!(config.store, StoreConfig::DynamoDb { table, aws, .. } if table == "there" && aws.fips));

    let problem = |store: &str| with(store).unwrap_err().to_string();
    assert_eq!(problem(""), "store.table: needed: the table's name");
    assert_eq!(problem("table = \"ibyok\"\npath = \"vault.db\""), "store.path: only with store.kind = \"sqlite\"");
    for (setting, bad) in [
        ("table", "\"no\""),
        ("table", "\"a table\""),
        ("region", "\"Frankfurt\""),
        ("endpoint", "\"127.0.0.1:8000\""),
        ("endpoint", "\"https://user:secret@host\""),
        ("endpoint", "\"ftp://host\""),
        ("fips", "\"yes\""),
        ("dual_stack", "1"),
    ] {
        let others = if setting == "table" { "" } else { "table = \"ibyok\"\n" };
        let said = problem(&format!("{others}{setting} = {bad}"));
        assert!(said.starts_with(&format!("store.{setting}: must be ")) && said.lines().count() == 1, "{said}");
    }
    let both = problem("table = \"ibyok\"\nendpoint = \"http://127.0.0.1:8000\"\nfips = true");
    assert_eq!(both, "store.endpoint: either this or store.fips and store.dual_stack, not both");
}

#[test]
fn a_file_takes_no_settings_of_a_table() {
    let text = SMALLEST.replace("[store]\n", "[store]\ntable = \"ibyok\"\nfips = false\n");
    let only = "only with store.kind = \"dynamodb\"";
    assert_eq!(problems(&text, &[]), [format!("store.table: {only}"), format!("store.fips: {only}")]);
}

/// Those that are no paths: a path in the file is relative to it.
const SETTINGS: [&str; 32] = [
    "listen",
    "store.kind",
    "store.table",
    "store.region",
    "store.endpoint",
    "store.fips",
    "store.dual_stack",
    "store.kms_key",
    "kms.kind",
    "kms.key_id",
    "kms.region",
    "kms.endpoint",
    "kms.fips",
    "kms.dual_stack",
    "kms.recovery_regions",
    "tokens.issuer",
    "tokens.ttl_default",
    "tokens.ttl_longest",
    "keys.cache_ttl",
    "keys.backup_retention",
    "audit.shared_lanes",
    "audit.mutation_lanes",
    "limits.connections",
    "limits.connection_age",
    "limits.connection_streams",
    "limits.calls",
    "limits.token_rate",
    "limits.certificate_rate",
    "limits.drain",
    "log.format",
    "log.level",
    "tokens.audience",
];
