//! Networks of a grant, against the address from which the server is reached and nothing else.

use tonic::metadata::MetadataMap;

use super::*;
use crate::harness::Home;

const CLIENT: &str = "spiffe://ibyok.test/networked";
/// Headers by which proxies say for whom they call: whoever calls can write them.
const HEARSAY: [&str; 5] = ["x-forwarded-for", "x-real-ip", "forwarded", "true-client-ip", "x-client-ip"];

/// A token that reads from `reads_from` and lists from `lists_from`.
async fn token(vault: &Vault, admin: &Caller, reads_from: &[&str], lists_from: &[&str]) -> Caller {
    let from = |scope, networks: &[&str]| pb::Grant {
        client_cidrs: networks.iter().map(ToString::to_string).collect(),
        ..grant(&[scope])
    };
    let grants = vec![from("keys:read", reads_from), from("keys:list", lists_from)];
    let request = pb::IssueTokenRequest { subject: "networked".to_owned(), grants, ..Default::default() };
    vault.issue(admin, CLIENT, request).await
}

/// Wants that the address of the caller is `seen`, in these networks and in none of those.
async fn is_seen_as(vault: Vault, seen: &str, inside: &[&str], outside: &[&str]) {
    let admin = vault.admin().await;
    create(&admin, "openai", &openai("one")).await;
    for network in inside {
        let caller = token(&vault, &admin, &[network], &outside[..1]).await;
        retrieve(&caller, "openai").await.unwrap_or_else(|status| panic!("{seen} in {network}: {status:?}"));
        // What one grant allows from here, another does not.
        let list = caller.keys().list_keys(pb::ListKeysRequest::default()).await;
        assert_eq!(refused(list), (Code::PermissionDenied, "NETWORK_NOT_GRANTED".to_owned()));
        let also = token(&vault, &admin, &[outside[0], network], inside).await;
        retrieve(&also, "openai").await.unwrap();
        also.keys().list_keys(pb::ListKeysRequest::default()).await.unwrap();
    }
    for network in outside {
        let caller = token(&vault, &admin, &[network], inside).await;
        for hearsay in [None].into_iter().chain(HEARSAY.map(Some)) {
            let mut request =
                tonic::Request::new(pb::RetrieveKeyRequest { name: "openai".into(), ..Default::default() });
            let address = network.split('/').next().unwrap();
            say(request.metadata_mut(), hearsay, address);
            let outcome = caller.keys().retrieve_key(request).await;
            let expected = (Code::PermissionDenied, "NETWORK_NOT_GRANTED".to_owned());
            assert_eq!(refused(outcome), expected, "{seen} in {network} with {hearsay:?}");
        }
    }
    // The log has the address that was judged, whatever a header says.
    let mut request = tonic::Request::new(pb::RetrieveKeyRequest { name: "openai".into(), ..Default::default() });
    say(request.metadata_mut(), Some("x-forwarded-for"), "192.0.2.9");
    admin.keys().retrieve_key(request).await.unwrap();
    let events = events(&admin, "key.retrieve").await;
    assert!(events.iter().all(|event| event.client_address == seen), "{:?}", events[0]);
    vault.stop().await;
}

fn say(headers: &mut MetadataMap, header: Option<&'static str>, address: &str) {
    match header {
        Some("forwarded") => drop(headers.insert("forwarded", format!("for=\"{address}\"").parse().unwrap())),
        Some(header) => drop(headers.insert(header, address.parse().unwrap())),
        None => {}
    }
}

const V4_INSIDE: [&str; 3] = ["127.0.0.1/32", "127.0.0.0/8", "0.0.0.0/0"];
const V4_OUTSIDE: [&str; 5] = ["10.0.0.0/8", "127.0.0.2/32", "128.0.0.0/1", "::1/128", "::/0"];

async fn made() -> Home {
    let home = Home::make();
    home.init().await.unwrap();
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_by_ipv4_is_in_its_networks() {
    is_seen_as(made().await.serve("").await, "127.0.0.1", &V4_INSIDE, &V4_OUTSIDE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_by_ipv4_on_a_socket_of_ipv6_is_in_the_same_networks() {
    let vault = made().await.serve_on("[::ffff:127.0.0.1]:0", "").await;
    is_seen_as(vault, "127.0.0.1", &V4_INSIDE, &V4_OUTSIDE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_by_ipv6_is_in_its_networks() {
    let vault = made().await.serve_on("[::1]:0", "").await;
    is_seen_as(vault, "::1", &["::1/128", "::/64", "::/0"], &["2001:db8::/32", "::2/128", "127.0.0.0/8", "0.0.0.0/0"])
        .await;
}
