//! What goes wrong, as errors.

use loader_core::Error;

/// The uploader's name in reports and errors.
pub(crate) const NAME: &str = "metal";

/// An error of an upload.
pub(crate) fn upload_error(message: impl Into<String>) -> Error {
    Error::Upload {
        uploader: NAME,
        message: message.into(),
    }
}
