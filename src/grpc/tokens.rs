//! `ibyok.v1.Tokens`.

use tonic::{Request, Response, Status};

use super::{
    convert::{
        key::opt_duration,
        own_name, own_parent, page_size,
        token::{binding, create_binding, exchange, issue, issued, list_tokens, revoke, token},
    },
    gate::Gate,
    pb::{self, tokens_server::Tokens},
};
use crate::{
    domain::{error::Reason, token::AccessToken},
    service::{bindings::BindingService, call::Call, tokens::TokenService},
};

/// The service.
#[derive(Clone, Debug)]
pub struct TokensService {
    gate: Gate,
    tokens: TokenService,
    bindings: BindingService,
}

impl TokensService {
    /// Answers through `gate` by `tokens` and `bindings`.
    #[must_use]
    pub fn new(gate: Gate, tokens: TokenService, bindings: BindingService) -> Self {
        Self { gate, tokens, bindings }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Tokens for TokensService {
    async fn issue_token(&self, request: Request<pb::IssueTokenRequest>) -> Answer<pb::IssueTokenResponse> {
        let tokens = self.tokens.clone();
        let run = move |call: Call, message| async move {
            let (access_token, token) = issued(tokens.issue(&call, &issue(&call, message)?).await?);
            Ok(pb::IssueTokenResponse { access_token, token })
        };
        self.gate.unary(request, run).await
    }

    async fn exchange_token(&self, request: Request<pb::ExchangeTokenRequest>) -> Answer<pb::ExchangeTokenResponse> {
        let tokens = self.tokens.clone();
        let run = move |call: Call, message| async move {
            let (access_token, token) = issued(tokens.exchange(&call, &exchange(message)?).await?);
            Ok(pb::ExchangeTokenResponse { access_token, token })
        };
        self.gate.unary(request, run).await
    }

    async fn renew_token(&self, request: Request<pb::RenewTokenRequest>) -> Answer<pb::RenewTokenResponse> {
        let tokens = self.tokens.clone();
        let run = move |call: Call, message: pb::RenewTokenRequest| async move {
            let ttl = opt_duration("ttl", message.ttl)?;
            let (access_token, token) = issued(tokens.renew(&call, ttl, &message.request_id).await?);
            Ok(pb::RenewTokenResponse { access_token, token })
        };
        self.gate.unary(request, run).await
    }

    async fn revoke_tokens(&self, request: Request<pb::RevokeTokensRequest>) -> Answer<pb::RevokeTokensResponse> {
        let tokens = self.tokens.clone();
        let run = move |call: Call, message: pb::RevokeTokensRequest| async move {
            let (reason, request_id) = (message.reason.clone(), message.request_id.clone());
            let revoked = tokens.revoke(&call, &revoke(&call, message)?, &reason, &request_id).await?;
            Ok(pb::RevokeTokensResponse { revoked: i64::try_from(revoked).unwrap_or(i64::MAX) })
        };
        self.gate.unary(request, run).await
    }

    async fn get_token(&self, request: Request<pb::GetTokenRequest>) -> Answer<pb::GetTokenResponse> {
        let tokens = self.tokens.clone();
        let run = move |call: Call, message: pb::GetTokenRequest| async move {
            let name = own_name(&call, "name", &message.name, Reason::TokenNotFound)?;
            let found = tokens.token(&call, &name).await?;
            Ok(pb::GetTokenResponse { token: Some(token(found)) })
        };
        self.gate.unary(request, run).await
    }

    async fn list_tokens(&self, request: Request<pb::ListTokensRequest>) -> Answer<pb::ListTokensResponse> {
        let tokens = self.tokens.clone();
        let run = move |call: Call, message| async move {
            let page = tokens.list(&call, &list_tokens(&call, message)?).await?;
            let tokens = page.tokens.into_iter().map(token).collect();
            Ok(pb::ListTokensResponse { tokens, next_page_token: page.next_page_token })
        };
        self.gate.unary(request, run).await
    }

    async fn introspect_token(
        &self,
        request: Request<pb::IntrospectTokenRequest>,
    ) -> Answer<pb::IntrospectTokenResponse> {
        let tokens = self.tokens.clone();
        let run = move |call: Call, message: pb::IntrospectTokenRequest| async move {
            let other = message.access_token.map(|mut value| AccessToken::new(std::mem::take(&mut value.text)));
            let found = tokens.introspect(&call, other.as_ref()).await?;
            Ok(pb::IntrospectTokenResponse {
                active: found.objection.is_none(),
                token: found.token.map(token),
                inactive_reason: found.objection.map_or("", Reason::as_str).to_owned(),
                client_identity: found.client_identity,
            })
        };
        self.gate.unary(request, run).await
    }

    async fn create_identity_binding(
        &self,
        request: Request<pb::CreateIdentityBindingRequest>,
    ) -> Answer<pb::CreateIdentityBindingResponse> {
        let bindings = self.bindings.clone();
        let run = move |call: Call, message| async move {
            let wanted = create_binding(&call, message)?;
            let made = bindings.create(&call, &wanted).await?;
            Ok(pb::CreateIdentityBindingResponse { binding: Some(binding(&wanted.name.org, made)) })
        };
        self.gate.unary(request, run).await
    }

    async fn list_identity_bindings(
        &self,
        request: Request<pb::ListIdentityBindingsRequest>,
    ) -> Answer<pb::ListIdentityBindingsResponse> {
        let bindings = self.bindings.clone();
        let run = move |call: Call, message: pb::ListIdentityBindingsRequest| async move {
            let org = own_parent(&call, &message.parent)?;
            let page = bindings.list(&call, page_size(message.page_size)?, &message.page_token).await?;
            let bindings = page.bindings.into_iter().map(|found| binding(&org, found)).collect();
            Ok(pb::ListIdentityBindingsResponse { bindings, next_page_token: page.next_page_token })
        };
        self.gate.unary(request, run).await
    }

    async fn delete_identity_binding(
        &self,
        request: Request<pb::DeleteIdentityBindingRequest>,
    ) -> Answer<pb::DeleteIdentityBindingResponse> {
        let bindings = self.bindings.clone();
        let run = move |call: Call, message: pb::DeleteIdentityBindingRequest| async move {
            let name = own_name(&call, "name", &message.name, Reason::BindingNotFound)?;
            bindings.delete(&call, &name, &message.request_id).await?;
            Ok(pb::DeleteIdentityBindingResponse {})
        };
        self.gate.unary(request, run).await
    }

    async fn get_jwks(&self, request: Request<pb::GetJwksRequest>) -> Answer<pb::GetJwksResponse> {
        let tokens = self.tokens.clone();
        let run = move |_, _| async move { Ok(pb::GetJwksResponse { jwks_json: tokens.jwks() }) };
        self.gate.unary(request, run).await
    }
}
