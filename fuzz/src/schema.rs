//! The methods of the authorization table with their messages: what is added to the contract is
//! called from the next build on.

use std::sync::LazyLock;

use ibyok::{
    authz::methods::{METHODS, Method},
    grpc::DESCRIPTOR_SET,
};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};

/// A method of the table.
#[derive(Debug)]
pub struct Rpc {
    pub method: &'static Method,
    pub request: MessageDescriptor,
    pub answer: MessageDescriptor,
    /// Takes any number of messages.
    pub is_client_stream: bool,
    /// Answers any number of messages.
    pub is_server_stream: bool,
}

impl Rpc {
    /// `KeyVault/GetKey`
    pub fn name(&self) -> &'static str {
        self.method.path.trim_start_matches("/ibyok.v1.")
    }
    /// Whether its answers may hold a provider key.
    pub fn releases_secrets(&self) -> bool {
        ["KeyVault/RetrieveKey", "KeyVault/BatchRetrieveKeys", "KeyGroups/AcquireKey"].contains(&self.name())
    }
}

/// All of them.
pub static RPCS: LazyLock<Vec<Rpc>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTOR_SET).unwrap();
    let rpc = |method: &'static Method| {
        let (service, name) = method.path[1..].split_once('/').unwrap();
        let service = pool.get_service_by_name(service).unwrap();
        let found = service.methods().find(|found| found.name() == name).unwrap();
        Rpc {
            method,
            request: found.input(),
            answer: found.output(),
            is_client_stream: found.is_client_streaming(),
            is_server_stream: found.is_server_streaming(),
        }
    };
    METHODS.iter().map(rpc).collect()
});

/// The method of that name.
pub fn find(name: &str) -> Option<&'static Rpc> {
    RPCS.iter().find(|rpc| rpc.name() == name)
}

/// The message whose texts are secrets.
const SECRET: &str = "ibyok.v1.SecretValue";

/// Shows `look` every text of `message`: the name of its field, whether it is a secret, the text.
pub fn texts(message: &mut DynamicMessage, look: &mut dyn FnMut(&str, bool, &mut String)) {
    let is_secret = message.descriptor().full_name() == SECRET;
    for (field, value) in message.fields_mut() {
        texts_of(field.name(), is_secret, value, look);
    }
}

fn texts_of(name: &str, is_secret: bool, value: &mut Value, look: &mut dyn FnMut(&str, bool, &mut String)) {
    match value {
        Value::String(text) => look(name, is_secret, text),
        Value::Message(inner) => texts(inner, look),
        Value::List(values) => values.iter_mut().for_each(|value| texts_of(name, is_secret, value, look)),
        Value::Map(map) => {
            // The keys of a map can't be changed in place: they are shown as copies.
            for (key, value) in map.iter_mut() {
                if let prost_reflect::MapKey::String(text) = key {
                    look(name, is_secret, &mut text.clone());
                }
                texts_of(name, is_secret, value, look);
            }
        }
        _ => {}
    }
}

/// Whether anything in `message` is of no field that its type has.
pub fn has_unknown(message: &DynamicMessage) -> bool {
    fn within(value: &Value) -> bool {
        match value {
            Value::Message(inner) => has_unknown(inner),
            Value::List(values) => values.iter().any(within),
            Value::Map(map) => map.values().any(within),
            _ => false,
        }
    }
    message.unknown_fields().next().is_some() || message.fields().any(|(_, value)| within(value))
}
