//! Handles: names for objects, looked up rather than followed.

use std::collections::BTreeMap;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

use crate::failure::{Failure, Result, Status};

/// A type of handle: C has pointers to it, which point nowhere.
pub(crate) trait Handle: Sized {
    /// What a handle stands for.
    type Object: Send + Sync + 'static;
    /// Its name in messages.
    const NAME: &'static str;

    fn registry() -> &'static Registry<Self::Object>;
}

/// All live objects of one type.
#[derive(Debug)]
pub(crate) struct Registry<T> {
    objects: Mutex<BTreeMap<usize, Arc<T>>>,
}

/// Names are odd, which addresses of C objects are not, and never given twice.
static NEXT: AtomicUsize = AtomicUsize::new(1);

impl<T> Registry<T> {
    pub(crate) const fn new() -> Self {
        Self {
            objects: Mutex::new(BTreeMap::new()),
        }
    }

    /// The first object that `find` accepts.
    pub(crate) fn search<R>(&self, find: impl Fn(&T) -> Option<R>) -> Result<Option<R>> {
        Ok(self.lock()?.values().find_map(|object| find(object)))
    }

    pub(crate) fn insert(&self, object: T) -> Result<usize> {
        let name = NEXT.fetch_add(2, Ordering::Relaxed);
        self.lock()?.insert(name, Arc::new(object));
        Ok(name)
    }

    pub(crate) fn find(&self, name: usize) -> Result<Option<Arc<T>>> {
        Ok(self.lock()?.get(&name).cloned())
    }

    pub(crate) fn remove(&self, name: usize) -> Result<Option<Arc<T>>> {
        Ok(self.lock()?.remove(&name))
    }

    /// The lock may have been held by another thread at a fork, and then is never released in the
    /// child. It is held for moments, so one that is not to be had for long is such a one.
    fn lock(&self) -> Result<MutexGuard<'_, BTreeMap<usize, Arc<T>>>> {
        /// The first process that locked one, or 0.
        static PROCESS: AtomicU32 = AtomicU32::new(0);
        let own = std::process::id();
        let first = PROCESS.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_ok() || first == Err(own) {
            return Ok(self.objects.lock().unwrap_or_else(PoisonError::into_inner));
        }
        for _ in 0..10_000 {
            match self.objects.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
        let message = "the table of handles was in use when this process was forked";
        Err(Failure::new(Status::Forked, message))
    }
}

/// A handle for `object`.
pub(crate) fn issue<H: Handle>(object: H::Object) -> Result<*mut H> {
    H::registry()
        .insert(object)
        .map(ptr::without_provenance_mut)
}

/// What `handle` stands for.
pub(crate) fn find<H: Handle>(handle: *const H) -> Result<Arc<H::Object>> {
    let found = H::registry().find(handle.addr())?;
    found.ok_or_else(|| bad_handle(handle))
}

/// What `handle` stood for: it is closed now.
pub(crate) fn close<H: Handle>(handle: *const H) -> Result<Arc<H::Object>> {
    let found = H::registry().remove(handle.addr())?;
    found.ok_or_else(|| bad_handle(handle))
}

fn bad_handle<H: Handle>(handle: *const H) -> Failure {
    let message = if handle.is_null() {
        format!("a {} is needed, null was given", H::NAME)
    } else {
        format!("{:#x} is no open {}", handle.addr(), H::NAME)
    };
    Failure::new(Status::BadHandle, message)
}

/// Declares a type of handle.
macro_rules! handle {
    ($(#[$documentation:meta])* $handle:ident, $object:ty, $name:literal) => {
        $(#[$documentation])*
        #[repr(C)]
        #[derive(Debug)]
        pub struct $handle {
            _opaque: [u8; 0],
        }

        impl $crate::registry::Handle for $handle {
            type Object = $object;
            const NAME: &'static str = $name;

            fn registry() -> &'static $crate::registry::Registry<Self::Object> {
                static OBJECTS: $crate::registry::Registry<$object> =
                    $crate::registry::Registry::new();
                &OBJECTS
            }
        }
    };
}
pub(crate) use handle;
