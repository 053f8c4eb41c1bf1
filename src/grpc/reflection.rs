//! Server reflection, v1 and v1alpha, with the contract's comments, and with the descriptors of
//! error details and health: so grpcurl prints every error in the clear.

use tonic_reflection::server::Builder;

use super::{DESCRIPTOR_SET, MESSAGE_MAX, routes::Routes};

/// `routes` with both reflection services.
///
/// # Errors
/// When a descriptor set does not parse: a defect of the build.
pub fn add_to(routes: Routes) -> Result<Routes, tonic_reflection::server::Error> {
    let (v1, v1alpha) = (builder().build_v1()?, builder().build_v1alpha()?);
    Ok(routes
        .add_service(v1.max_decoding_message_size(MESSAGE_MAX))
        .add_service(v1alpha.max_decoding_message_size(MESSAGE_MAX)))
}

fn builder<'b>() -> Builder<'b> {
    Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
