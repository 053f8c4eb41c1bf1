//! Keys from JSON Lines: an object on each line. What serde_json says of an error is not repeated,
//! since it can hold what stands there.

use serde_json::{Map, Value, error::Category};

use super::{
    Problem,
    record::{FIELDS, Record},
};

pub(super) fn records(bytes: &[u8]) -> Result<Vec<Record>, Vec<Problem>> {
    let (mut records, mut problems) = (Vec::new(), Vec::new());
    for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        match record(line, text) {
            Ok(record) => records.push(record),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(records) } else { Err(problems) }
}

fn record(line: u64, text: &[u8]) -> Result<Record, Problem> {
    let fields: Map<String, Value> = serde_json::from_slice(text).map_err(|error| problem(line, &error))?;
    let mut record = Record { line, ..Default::default() };
    for (n, (name, value)) in (1..).zip(&fields) {
        let Some(field) = FIELDS.iter().copied().find(|field| field == name) else {
            // Not its name: that could be anything.
            let problem = format!("a field (number {n} by its name's order) is none of {}", FIELDS.join(", "));
            return Err(Problem::new(line, None, problem));
        };
        set(&mut record, field, value)?;
    }
    match ["name", "secret"].iter().find(|field| !fields.contains_key(**field)) {
        Some(field) => Err(Problem::new(line, Some(field), "is missing")),
        None => Ok(record),
    }
}

fn set(record: &mut Record, field: &'static str, value: &Value) -> Result<(), Problem> {
    let wrong = |problem: &str| Err(Problem::new(record.line, Some(field), problem));
    match (field, value) {
        (_, Value::Null) => Ok(()),
        ("labels", Value::Object(labels)) => {
            let labels = labels.iter().map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
            let Some(labels) = labels.collect() else { return wrong("holds something that is not text") };
            record.labels = labels;
            Ok(())
        }
        ("models", Value::Array(models)) => {
            let models = models.iter().map(|model| Some(model.as_str()?.to_owned()));
            let Some(models) = models.collect() else { return wrong("holds something that is not text") };
            record.models = models;
            Ok(())
        }
        (_, Value::String(text)) => record.set(field, text),
        ("labels", _) => wrong("is not an object"),
        ("models", _) => wrong("is not a list"),
        _ => wrong("is not text"),
    }
}

fn problem(line: u64, error: &serde_json::Error) -> Problem {
    let column = format!("column {}", error.column());
    let what = match error.classify() {
        Category::Data => "is not an object",
        Category::Syntax | Category::Eof | Category::Io => "is not JSON",
    };
    Problem::new(line, Some(&column), what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_keys() {
        let text = "\n{\"name\":\"one\",\"secret\":\"canary\",\"labels\":{\"team\":\"a\"},\"models\":[\"gpt-*\"],\"ttl\":\"1h\"}\r\n\n\
                    {\"name\": \"two\", \"secret\": null, \"provider\": \"ollama\"}";
        let records = records(text.as_bytes()).unwrap();
        assert_eq!((records[0].line, records[1].line), (2, 4));
        assert_eq!((records[0].labels["team"].as_str(), records[0].models.len()), ("a", 1));
        assert_eq!(records[0].ttl.unwrap().as_secs(), 3_600);
        assert!(records[1].secret.is_none());
    }

    #[test]
    fn every_wrong_line_is_named_and_no_value_is_shown() {
        let text = "{\"name\": \"a\", \"secret\": \"canary\n\
                    [\"canary\"]\n\
                    {\"name\": \"a\", \"secret\": \"canary\", \"canary-field\": 1}\n\
                    {\"name\": \"a\"}\n\
                    {\"name\": \"a\", \"secret\": 12345}\n\
                    {\"name\": \"a\", \"secret\": \"canary\", \"labels\": [\"canary\"]}\n\
                    {\"name\": \"a\", \"secret\": \"canary\", \"labels\": {\"a\": 1}}\n\
                    {\"name\": \"a\", \"secret\": \"canary\", \"ttl\": \"canary\"}\n";
        let problems = records(text.as_bytes()).unwrap_err();
        let places: Vec<_> =
            problems.iter().map(|problem| (problem.line, problem.field.as_deref().unwrap_or_default())).collect();
        let expected =
            [(2, "column 0"), (3, ""), (4, "secret"), (5, "secret"), (6, "labels"), (7, "labels"), (8, "ttl")];
        assert_eq!(places[0].0, 1);
        assert_eq!(places[1..], expected);
        assert!(!format!("{problems:?}").contains("canary") && !format!("{problems:?}").contains("12345"));
    }
}
