//! Cancellation from other threads.

use weightloader::CancelToken;

use crate::boundary::{give, guarded, output};
use crate::failure::Status;
use crate::registry::{self, handle};

handle!(
    /// Cancels operations from any thread.
    TokenHandle,
    CancelToken,
    "weightloader_token"
);

/// Makes a token that is not cancelled. Give it to any number of operations; free it by
/// weightloader_token_free().
///
/// Threads: any, at any time.
///
/// # Safety
/// `token` is null or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn weightloader_token_new(token: *mut *mut TokenHandle) -> Status {
    guarded(|| {
        output(token, "token")?;
        let handle = registry::issue(CancelToken::new())?;
        // SAFETY: the caller's promise.
        unsafe { give(token, handle, "token") }
    })
}

/// Asks every operation that has this token to stop with WEIGHTLOADER_STATUS_CANCELLED, and returns
/// at once. Later operations with this token stop too.
///
/// Threads: any, at any time, several on the same handle too.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_token_cancel(token: *const TokenHandle) -> Status {
    guarded(|| {
        registry::find(token)?.cancel();
        Ok(())
    })
}

/// Frees a token. Operations that have it go on, and can no longer be cancelled by it.
///
/// Threads: any; calls of others that use the handle already go on undisturbed.
#[unsafe(no_mangle)]
pub extern "C" fn weightloader_token_free(token: *mut TokenHandle) -> Status {
    guarded(|| registry::close(token.cast_const()).map(drop))
}
