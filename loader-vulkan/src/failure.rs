//! What a driver answers, as errors of the loader.

use ash::vk;
use loader_core::{Error, Mechanism};

/// The uploader's name in reports and errors.
pub(crate) const NAME: &str = "vulkan";

/// The error of a Vulkan call that was to `action`.
pub(crate) fn failed(action: &str) -> impl FnOnce(vk::Result) -> Error {
    move |result| upload_error(format!("cannot {action}: {}", reason(result)))
}

pub(crate) fn upload_error(message: String) -> Error {
    Error::Upload {
        uploader: NAME,
        message,
    }
}

/// There is no device to upload to.
pub(crate) fn no_device(reason: String) -> Error {
    Error::Unsupported {
        mechanism: Mechanism::new(NAME),
        reason,
    }
}

/// What a result means, and its name in the specification.
fn reason(result: vk::Result) -> String {
    match result {
        vk::Result::ERROR_DEVICE_LOST => "the device was lost (VK_ERROR_DEVICE_LOST)".to_owned(),
        vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => {
            "the device has no memory left (VK_ERROR_OUT_OF_DEVICE_MEMORY)".to_owned()
        }
        vk::Result::ERROR_OUT_OF_HOST_MEMORY => {
            "the host has no memory left (VK_ERROR_OUT_OF_HOST_MEMORY)".to_owned()
        }
        other => format!("VK_{other:?}"),
    }
}
