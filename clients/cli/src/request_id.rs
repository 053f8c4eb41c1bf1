//! Request ids that come out the same when a command is run again, so that the vault does what was
//! asked for once. They are made of names, numbers and times only, never of a secret: whoever sees
//! an id in transit learns nothing that he could try keys against.

use aws_lc_rs::digest::{SHA256, digest};

/// The id of `what` done to what `parts` name: `import-` and 32 hex digits.
pub(crate) fn derived(what: &str, parts: &[&str]) -> String {
    let mut bytes = Vec::new();
    for part in [&["ibyok/request-id/1", what], parts].concat() {
        // The length before each, so that no two lists of parts are the same bytes.
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    let hash = digest(&SHA256, &bytes);
    let hex: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{what}-{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_parts_give_the_same_id_and_others_another() {
        let id = derived("import", &["file", "openai-prod"]);
        assert_eq!(id, derived("import", &["file", "openai-prod"]));
        assert_eq!(id.len(), "import-".len() + 32);
        for other in [&["file", "openai-pro"][..], &["fileo", "penai-prod"], &["file", "openai-prod", ""]] {
            assert_ne!(id, derived("import", other));
        }
        assert_ne!(
            derived("rotate", &["a"]).split_once('-').unwrap().1,
            derived("import", &["a"]).split_once('-').unwrap().1
        );
    }
}
