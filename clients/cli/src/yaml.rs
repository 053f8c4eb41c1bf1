//! JSON values as YAML 1.2 in block style. Everything that another reader could take for something
//! else than text (yes, 1e3, a time) is quoted as JSON quotes it, which YAML reads.

use serde_json::Value;

/// `value` as a document with its last end of line.
pub(crate) fn text(value: &Value) -> String {
    lines(value).into_iter().flat_map(|line| [line, "\n".to_owned()]).collect()
}

fn lines(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) if !values.is_empty() => values.iter().flat_map(item).collect(),
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().flat_map(|(name, value)| field(name, value)).collect()
        }
        scalar_or_empty => vec![scalar(scalar_or_empty)],
    }
}

fn item(value: &Value) -> Vec<String> {
    let prefixes = std::iter::once("- ").chain(std::iter::repeat("  "));
    lines(value).into_iter().zip(prefixes).map(|(line, prefix)| format!("{prefix}{line}")).collect()
}

fn field(name: &str, value: &Value) -> Vec<String> {
    let name = string(name);
    let is_block = match value {
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => false,
    };
    if !is_block {
        return vec![format!("{name}: {}", scalar(value))];
    }
    let nested = lines(value).into_iter().map(|line| format!("  {line}"));
    std::iter::once(format!("{name}:")).chain(nested).collect()
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        other => other.to_string(),
    }
}

fn string(text: &str) -> String {
    const WORDS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "null", "y"];
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-'))
        && !WORDS.iter().chain(&["n"]).any(|word| text.eq_ignore_ascii_case(word));
    if is_plain {
        return text.to_owned();
    }
    // What JSON leaves as it is and YAML does not take, or takes for an end of line.
    let is_special =
        |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    let quoted = Value::String(text.to_owned()).to_string();
    quoted.chars().map(|c| if is_special(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use yaml_rust2::{Yaml, YamlLoader};

    use super::*;

    #[test]
    fn nested_values_are_in_block_style() {
        let value = json!({"keys": [{"name": "orgs/dev/keys/a", "labels": {}, "many": 1, "list": ["x", ["y z"]]}, null], "none": []});
        assert_eq!(
            text(&value),
            "keys:\n  - labels: {}\n    list:\n      - x\n      - - \"y z\"\n    many: 1\n    name: orgs/dev/keys/a\n  - null\nnone: []\n"
        );
    }

    #[test]
    fn what_older_readers_take_for_something_else_is_quoted() {
        for word in ["yes", "No", "on", "OFF", "y", "n", "true", "null", "1e3", "2024-02-29"] {
            assert_eq!(text(&json!(word)), format!("\"{word}\"\n"));
        }
    }

    #[test]
    fn another_reader_reads_what_was_written() {
        let texts = [
            "",
            "plain",
            "yes",
            "NO",
            "null",
            "~",
            "1",
            "1e3",
            "0x1f",
            "-",
            "- a",
            "a: b",
            "#c",
            "a #b",
            "'",
            "\"",
            "\\",
            "two\nlines",
            "\u{1b}[31m",
            "\u{7f}\u{85}\u{a0}",
            "\u{2028}",
            "é",
            "2024-02-29T12:34:56Z",
            " led",
            "trailed ",
            "{",
            "[",
            "*a",
            "&a",
            "!t",
            "%d",
            "@a",
            "`b",
            "---",
            "...",
            "\u{feff}",
            "\u{1f511}",
            "sk-proj",
            "a,b",
            "=",
            "<<",
        ];
        let value = json!({ "texts": texts.to_vec(), "": {"a": true, "b": [1, -2.5, null]} });
        let documents = YamlLoader::load_from_str(&text(&value)).unwrap();
        assert_eq!(same(&documents[0]), value);
    }

    fn same(yaml: &Yaml) -> Value {
        match yaml {
            Yaml::String(text) => json!(text),
            Yaml::Integer(number) => json!(number),
            Yaml::Real(_) => json!(yaml.as_f64()),
            Yaml::Boolean(is) => json!(is),
            Yaml::Null => Value::Null,
            Yaml::Array(values) => values.iter().map(same).collect(),
            Yaml::Hash(fields) => {
                fields.iter().map(|(name, value)| (name.as_str().unwrap().to_owned(), same(value))).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}
