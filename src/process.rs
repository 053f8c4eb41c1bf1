//! What the process asks of the system for the sake of the secrets in its memory.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// The process could not be hardened.
#[derive(Debug, thiserror::Error)]
#[error("the system refuses {what}")]
pub struct HardeningError {
    what: &'static str,
    #[source]
    source: rustix::io::Errno,
}

/// No core files, no ptrace or /proc/PID/mem for other processes of the user, files for the owner
/// alone, and panics that say where, not what.
///
/// # Errors
/// When the system refuses.
pub fn harden() -> Result<(), HardeningError> {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    forbid_dumps()?;
    quiet_panics();
    Ok(())
}

fn forbid_dumps() -> Result<(), HardeningError> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|source| HardeningError { what: "to forbid core files", source })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|source| HardeningError { what: "to make the process not dumpable", source })
}

/// A panic's message may hold a value; its place never does.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            place,
            "a defect: the call in which it is is answered INTERNAL, a task of the server begins again"
        );
    }));
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn dumps_are_forbidden() {
        forbid_dumps().unwrap();
        assert!(matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable)));
        let core = getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
    }
}
