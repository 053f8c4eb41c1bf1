//! Grants, as the records of tokens and bindings hold them.

use super::fields::{Builder, Fields as _, rejected};
use crate::{
    domain::{
        error::Failure,
        ids::{Environment, OrgId},
        pattern::ResourcePattern,
        scope::Scope,
        token::Grant,
    },
    store::Attributes,
};

pub(super) fn encode(grants: &[Grant]) -> impl Iterator<Item = Attributes> {
    grants.iter().map(|grant| {
        Builder::new()
            .texts("scopes", grant.scopes.iter().map(|scope| scope.as_str()))
            .texts("resources", grant.resources.iter().map(|resource| resource.as_str()))
            .map_of_text("labels", &grant.labels)
            .texts("environments", grant.environments.iter().map(|environment| environment.as_str()))
            .texts("client_cidrs", grant.client_cidrs.iter().map(ToString::to_string))
            .build()
    })
}

pub(super) fn decode(grants: &[&Attributes], org: &OrgId) -> Result<Vec<Grant>, Failure> {
    grants.iter().map(|grant| decode_one(grant, org)).collect()
}

fn decode_one(grant: &Attributes, org: &OrgId) -> Result<Grant, Failure> {
    Ok(Grant {
        scopes: each(grant, "scopes", Scope::from_text)?,
        resources: each(grant, "resources", |text| ResourcePattern::parse("resources", text, org).ok())?,
        labels: grant.map_of_text("labels")?,
        environments: each(grant, "environments", |text| Environment::parse("environments", text).ok())?,
        client_cidrs: each(grant, "client_cidrs", |text| text.parse().ok())?,
    })
}

fn each<T>(grant: &Attributes, name: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Failure> {
    grant.texts(name)?.iter().map(|text| parse(text).ok_or_else(|| rejected(name))).collect()
}
