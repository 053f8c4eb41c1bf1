//! N x N organizations over all methods of the contract: nobody reads or changes another's, and an
//! absent organization answers the same bytes as somebody else's.

use ibyok::{
    authz::methods::{METHODS, Requirement},
    grpc::pb,
};
use tonic::Status;

use crate::{
    harness::{Caller, ORG, Vault},
    wire::{Target, call, request},
};

const ORGS: [&str; 3] = [ORG, "bolt", "cog"];

struct Tenant {
    org: &'static str,
    caller: Caller,
    target: Target,
}

impl Tenant {
    /// What only this organization may ever see.
    fn secret(org: &str) -> String {
        format!("canary-of-{org}-0123456789abcdefghij")
    }

    async fn make(vault: &Vault, operator: &Caller, org: &'static str) -> Self {
        let identity = format!("spiffe://ibyok.test/admin-of-{org}");
        let caller = if org == ORG {
            vault.admin().await
        } else {
            let request =
                pb::CreateOrgRequest { org_id: org.into(), admin_identity: identity.clone(), ..Default::default() };
            operator.admin().create_org(request).await.unwrap();
            vault.exchange(&identity, org).await
        };
        let create = pb::CreateKeyRequest {
            key_id: "shared-name".into(),
            provider: "openai".into(),
            description: format!("kept by {org}"),
            secret: Some(pb::SecretValue { text: Self::secret(org) }),
            ..Default::default()
        };
        caller.keys().create_key(create).await.unwrap();
        let read = pb::RetrieveKeyRequest { name: "shared-name".into(), ..Default::default() };
        let receipt = caller.keys().retrieve_key(read).await.unwrap().into_inner().receipt.unwrap();
        let issue = pb::IssueTokenRequest {
            subject: format!("service-of-{org}"),
            grants: vec![pb::Grant { scopes: vec!["keys:list".into()], ..Default::default() }],
            ..Default::default()
        };
        let issued = caller.tokens().issue_token(issue).await.unwrap().into_inner().token.unwrap();
        let bindings =
            caller.tokens().list_identity_bindings(pb::ListIdentityBindingsRequest::default()).await.unwrap();
        let binding = bindings.into_inner().bindings.remove(0).name;
        let last = |name: &str| name.rsplit('/').next().unwrap().to_owned();
        let target = Target {
            org: org.into(),
            key: "shared-name".into(),
            token: last(&issued.name),
            binding: last(&binding),
            event: format!("{}.{}", receipt.chain, receipt.sequence),
        };
        Self { org, caller, target }
    }
}

/// What there is of nobody.
fn nothing_of(org: &str) -> Target {
    Target {
        org: org.into(),
        key: "no-such-key".into(),
        token: "0".repeat(32),
        binding: "no-such-binding".into(),
        event: "ffffffffffffffffs0.4096".into(),
    }
}

/// All that a refusal tells: code, message, details.
fn told(status: &Status) -> (i32, String, Vec<u8>) {
    (status.code() as i32, status.message().to_owned(), status.details().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_organization_reaches_into_another() {
    let vault = Vault::start().await;
    let operator = vault.operator().await;
    let mut tenants = Vec::new();
    for org in ORGS {
        tenants.push(Tenant::make(&vault, &operator, org).await);
    }
    for caller in &tenants {
        for owner in tenants.iter().filter(|owner| owner.org != caller.org) {
            for method in METHODS {
                let token = caller.caller.token.as_deref().filter(|_| method.requirement != Requirement::Certificate);
                let ask =
                    |target: Target| call(&caller.caller.channel, method.path, token, request(method.path, &target), 3);
                let (foreign, absent) = (ask(owner.target.clone()).await, ask(nothing_of("nobody")).await);
                let place = format!("{} asks {} of {}", caller.org, method.path, owner.org);
                match (foreign, absent) {
                    (Err(foreign), Err(absent)) => assert_eq!(told(&foreign), told(&absent), "{place}"),
                    (Ok(foreign), Ok(_)) => {
                        for needle in
                            [Tenant::secret(owner.org), format!("orgs/{}", owner.org), owner.target.token.clone()]
                        {
                            let found = foreign
                                .iter()
                                .any(|bytes| bytes.windows(needle.len()).any(|at| at == needle.as_bytes()));
                            assert!(!found, "{place}: the answer holds {needle}");
                        }
                    }
                    (foreign, absent) => panic!("{place}: {foreign:?}, where nobody's answers {absent:?}"),
                }
            }
        }
    }
    for tenant in &tenants {
        let read = pb::RetrieveKeyRequest { name: "shared-name".into(), ..Default::default() };
        let answer = tenant.caller.keys().retrieve_key(read).await.unwrap().into_inner();
        assert_eq!(answer.secret.unwrap().text, Tenant::secret(tenant.org));
        let get = pb::GetKeyRequest { name: "shared-name".into() };
        let key = tenant.caller.keys().get_key(get).await.unwrap().into_inner().key.unwrap();
        assert_eq!(key.description, format!("kept by {}", tenant.org));
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_resource_of_ones_own_answers_the_bytes_of_a_foreign_one() {
    let vault = Vault::start().await;
    let operator = vault.operator().await;
    let (acme, bolt) = (Tenant::make(&vault, &operator, ORG).await, Tenant::make(&vault, &operator, "bolt").await);
    let of_one_resource = [
        "KeyVault/GetKey",
        "KeyVault/UpdateKey",
        "KeyVault/RetrieveKey",
        "KeyVault/AddKeyVersion",
        "KeyVault/VerifyKeyVersion",
        "KeyVault/PromoteKeyVersion",
        "KeyVault/RollBackKeyVersion",
        "KeyVault/DestroyKeyVersion",
        "KeyVault/ListKeyVersions",
        "KeyVault/DisableKey",
        "KeyVault/EnableKey",
        "KeyVault/DeleteKey",
        "KeyVault/UndeleteKey",
        "KeyVault/DestroyKey",
        "KeyVault/ListKeyConsumers",
        "Tokens/GetToken",
        "Tokens/RevokeTokens",
        "Tokens/DeleteIdentityBinding",
        "Audit/GetAuditEvent",
    ];
    for name in of_one_resource {
        let method = METHODS.iter().find(|method| method.path.ends_with(&format!(".{name}"))).unwrap();
        let token = acme.caller.token.as_deref();
        let ask = |target: Target| call(&acme.caller.channel, method.path, token, request(method.path, &target), 1);
        // An event's id does not say whose it is: it is asked for among one's own.
        let owner = if name == "Audit/GetAuditEvent" { ORG } else { "bolt" };
        let foreign = ask(Target { org: owner.into(), ..bolt.target.clone() }).await.expect_err(name);
        let absent = ask(nothing_of(ORG)).await.expect_err(name);
        assert_eq!(told(&foreign), told(&absent), "{name}");
        assert_eq!(foreign.code(), tonic::Code::NotFound, "{name}");
    }
    vault.stop().await;
}
