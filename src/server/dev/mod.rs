//! `ibyok-server dev`: the preset of `serve` for one developer and one machine. It makes what is
//! missing in one directory, and proves by the front door that the vault works before it says so.

mod check;
mod files;

use std::{
    future::Future,
    io::Write,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use self::{check::Checked, files::Directory};
use super::{
    ServerError, Sources,
    init::{Init, init},
    run,
};
use crate::{
    config::{Config, Environment},
    domain::{ids::OrgId, principal::IdentityPattern},
};

/// The organization of `dev`.
const ORG: &str = "dev";
/// Whom the client certificate names.
const IDENTITY: &str = "spiffe://ibyok.dev/dev";

/// What `dev` is told.
#[derive(Clone, Debug)]
pub struct Dev {
    /// Where everything is kept.
    pub dir: PathBuf,
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// Settings that the environment holds.
    pub environment: Environment,
}

impl Dev {
    /// The settings: those of `serve`, with every file in the directory.
    ///
    /// # Errors
    /// When the environment's settings are wrong.
    pub fn config(&self) -> Result<Config, crate::config::ConfigError> {
        Config::parse(PRESET, self.dir.clone(), self.environment.clone())
    }
}

const PRESET: &str = r#"
tls = { cert = "server.pem", key = "server.key", client_ca = "ca.pem" }
store = { path = "vault.db" }
kms = { key_file = "master.keys" }
log = { level = "warn" }
"#;

/// Makes what is missing, serves until `shutdown`, and meanwhile checks itself and says on `out`
/// what was found and how to go on.
///
/// # Errors
/// When something can't be made or served, or the self-check finds something wrong.
pub async fn dev(
    dev: &Dev,
    config: Config,
    shutdown: impl Future<Output = ()>,
    out: &mut (dyn Write + Send),
) -> Result<(), ServerError> {
    let sources = Sources::default();
    let directory = Directory::prepare(&dev.dir, &sources)?;
    let vault = Init { org: org()?, admin: identity()? };
    match init(&config, &vault, &sources).await {
        Ok(()) | Err(ServerError::Initialised) => {}
        Err(error) => return Err(error),
    }
    let socket = TcpListener::bind(dev.listen).await.map_err(ServerError::io(format!("listen on {}", dev.listen)))?;
    let address = reachable(socket.local_addr().map_err(ServerError::io("listen"))?);

    let stop = CancellationToken::new();
    let running = run(config, socket, stop.clone().cancelled_owned(), sources);
    let using = async {
        let _stopped = stop.clone().drop_guard();
        let checked = check::check(&directory, address).await?;
        directory.write_env(address)?;
        write_report(out, &dev.dir, address, &checked).map_err(ServerError::io("write to the terminal"))?;
        shutdown.await;
        Ok(())
    };
    // If the server can't start, there is nothing to check; if the check fails, the server stops.
    let mut running = std::pin::pin!(running);
    let mut using = std::pin::pin!(using);
    let outcome = tokio::select! {
        ended = &mut running => return ended,
        outcome = &mut using => outcome,
    };
    stop.cancel();
    running.await?;
    outcome
}

/// An address that clients on this machine reach: 0.0.0.0 is not one.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (std::net::Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

fn write_report(
    out: &mut (dyn Write + Send),
    dir: &Path,
    address: SocketAddr,
    checked: &Checked,
) -> std::io::Result<()> {
    let at = |name: &str| shell_word(&dir.join(name).to_string_lossy());
    writeln!(out, "stored     {}", checked.stored)?;
    writeln!(out, "retrieved  {}", checked.retrieved)?;
    writeln!(out, "recorded   {}", checked.recorded)?;
    writeln!(out, "\nThe vault serves on {address}; Ctrl-C ends it. In another terminal:\n")?;
    // grpcurl expands the variable itself, so that no token is on a command line.
    writeln!(
        out,
        "IBYOK_TOKEN=\"$(cat {})\" grpcurl -cacert {} -cert {} -key {} -expand-headers -rpc-header 'authorization: \
         Bearer ${{IBYOK_TOKEN}}' -d '{{\"name\": \"{}\"}}' {address} ibyok.v1.KeyVault/RetrieveKey\n",
        at("token"),
        at("ca.pem"),
        at("client.pem"),
        at("client.key"),
        check::SAMPLE,
    )?;
    writeln!(out, ". {} && ibyok keys list", at("env.sh"))?;
    out.flush()
}

/// `text` as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | ':' | '[' | ']');
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The text of `env.sh`: what the clients read.
fn env_text(dir: &Path, address: SocketAddr) -> Zeroizing<String> {
    let at = |name: &str| shell_word(&dir.join(name).to_string_lossy());
    Zeroizing::new(format!(
        "export IBYOK_ADDR={address}\nexport IBYOK_TOKEN_FILE={}\nexport IBYOK_CACERT={}\nexport IBYOK_CLIENT_CERT={}\n\
         export IBYOK_CLIENT_KEY={}\n",
        at("token"),
        at("ca.pem"),
        at("client.pem"),
        at("client.key"),
    ))
}

fn org() -> Result<OrgId, ServerError> {
    Ok(OrgId::parse("org", ORG)?)
}
fn identity() -> Result<IdentityPattern, ServerError> {
    Ok(IdentityPattern::parse("identity", IDENTITY)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(shell_word("/srv/vault/ca.pem"), "/srv/vault/ca.pem");
        assert_eq!(shell_word("/a b/$(rm)"), "'/a b/$(rm)'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        let text = env_text(Path::new("/a b"), ([127, 0, 0, 1], 7443).into());
        assert!(text.contains("export IBYOK_ADDR=127.0.0.1:7443\n"));
        assert!(text.contains("export IBYOK_TOKEN_FILE='/a b/token'\n"));
    }
}
