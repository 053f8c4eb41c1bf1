//! How a secret comes in: from a file, from standard input, or asked for without echo. There is no
//! argument form: arguments show in process lists and shell histories.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::Path,
};

use ibyok_client::ProviderKey;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// What the vault takes at most.
const BYTES_MAX: usize = 16_384;
const NEXT: &str = "pipe the key in, name a file with --from-file, or type it when asked";

/// Reads the key from `file`, else from standard input, asking there if someone sits at it.
pub(crate) fn provider_key(file: Option<&Path>) -> Result<ProviderKey, Failure> {
    if let Some(path) = file {
        let opened = File::open(path).map_err(|error| Failure::file("read", path, &error))?;
        return read(opened);
    }
    if !io::stdin().is_terminal() {
        return read(io::stdin().lock());
    }
    let typed = rpassword::prompt_password("Provider key (not shown): ")
        .map_err(|error| Failure::usage(format!("can't ask for the key ({})", error.kind()), NEXT))?;
    checked(Zeroizing::new(typed.into_bytes()))
}

/// What is piped in, if anything is; a terminal is not asked.
pub(crate) fn piped_provider_key() -> Result<Option<ProviderKey>, Failure> {
    if io::stdin().is_terminal() {
        return Ok(None);
    }
    if_any(io::stdin().lock())
}

fn if_any(mut source: impl Read) -> Result<Option<ProviderKey>, Failure> {
    let mut first = [0];
    match source.read(&mut first) {
        Ok(0) => Ok(None),
        _ => read(first.as_slice().chain(source)).map(Some),
    }
}

fn read(source: impl Read) -> Result<ProviderKey, Failure> {
    // Room for all of it at once: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES_MAX + 64));
    source
        .take(BYTES_MAX as u64 + 3)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("can't read the key ({})", error.kind()), NEXT))?;
    checked(bytes)
}

/// Drops one end of line, as `echo` and editors add one; keeps everything else.
fn checked(bytes: Zeroizing<Vec<u8>>) -> Result<ProviderKey, Failure> {
    let text = str::from_utf8(&bytes).map_err(|_| Failure::usage("the key is not text", NEXT))?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    match text.len() {
        0 => Err(Failure::usage("there is no key", NEXT)),
        1..=BYTES_MAX => Ok(ProviderKey::new(text.to_owned())),
        _ => Err(Failure::usage(format!("the key is longer than {BYTES_MAX} bytes"), NEXT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_end_of_line_is_dropped_and_nothing_else() {
        for (given, kept) in [("sk-1\n", "sk-1"), ("sk-1\r\n", "sk-1"), (" sk-1 ", " sk-1 "), ("sk-1\n\n", "sk-1\n")] {
            assert_eq!(read(given.as_bytes()).unwrap().expose_secret(), kept);
        }
        let longest = "k".repeat(BYTES_MAX) + "\r\n";
        assert_eq!(read(longest.as_bytes()).unwrap().expose_secret().len(), BYTES_MAX);
    }

    #[test]
    fn what_can_not_be_a_key_is_refused_without_repeating_it() {
        let long = "canary".repeat(3_000);
        for given in [&b""[..], b"\n", b"canary\xff", long.as_bytes()] {
            let failure = read(given).unwrap_err();
            assert_eq!(failure.exit, crate::failure::Exit::Usage);
            assert!(!failure.to_string().contains("canary"));
        }
    }

    #[test]
    fn an_empty_pipe_holds_no_key() {
        assert!(if_any(&b""[..]).unwrap().is_none());
        assert_eq!(if_any(&b"sk-1\n"[..]).unwrap().unwrap().expose_secret(), "sk-1");
        if_any(&b"\n"[..]).unwrap_err();
    }

    #[test]
    fn a_file_that_can_not_be_read_is_named() {
        let text = provider_key(Some(Path::new("/no/such/file"))).unwrap_err().to_string();
        assert!(text.starts_with("error: can't read /no/such/file (entity not found)\nnext:  "), "{text}");
    }
}
