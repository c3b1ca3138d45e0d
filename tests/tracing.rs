//! Every phase of a load shows in whatever listens to `tracing`: as spans that nest, also across
//! threads, and as events at debug level.

#![allow(clippy::unwrap_used, reason = "these are tests")]
#![cfg(feature = "safetensors")]

mod checkpoints;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use checkpoints::Written;
use loader_core::testing::{Residency, TestSystem, Watchdog};
use loader_core::{HostUploader, Platform};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use weightloader::{Loader, Operation, WeightFile};

/// A span or an event that was told of.
#[derive(Clone, Debug)]
struct Told {
    /// Its name, or what an event says.
    name: String,
    fields: BTreeMap<&'static str, String>,
    /// The spans that it lies in, the innermost first.
    within: Vec<String>,
    span: Option<Id>,
}

/// Writes down all that is told by this project.
#[derive(Clone, Debug, Default)]
struct Listener(Arc<Mutex<Vec<Told>>>);

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        assert!(*span.metadata().level() >= Level::DEBUG);
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        self.0.lock().unwrap().push(Told {
            name: span.name().to_owned(),
            fields: fields.0,
            within: span
                .scope()
                .skip(1)
                .map(|span| span.name().to_owned())
                .collect(),
            span: Some(id.clone()),
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut told = self.0.lock().unwrap();
        let known = |told: &&mut Told| told.span.as_ref() == Some(id);
        let mut fields = Fields::default();
        values.record(&mut fields);
        // Ids are given again once a span is closed.
        told.iter_mut()
            .rev()
            .find(known)
            .unwrap()
            .fields
            .extend(fields.0);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if *event.metadata().level() > Level::DEBUG {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let scope = context.event_scope(event).into_iter().flatten();
        self.0.lock().unwrap().push(Told {
            name: fields.0.remove("message").unwrap_or_default(),
            fields: fields.0,
            within: scope.map(|span| span.name().to_owned()).collect(),
            span: None,
        });
    }
}

impl Listener {
    /// What `work` tells of.
    fn hear<T>(&self, work: impl FnOnce() -> T) -> (T, Heard) {
        self.0.lock().unwrap().clear();
        let outcome = tracing::debug_span!("runtime").in_scope(work);
        (outcome, Heard(self.0.lock().unwrap().clone()))
    }
}

struct Heard(Vec<Told>);

impl Heard {
    fn all<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h Told> {
        self.0.iter().filter(move |told| told.name == name)
    }

    /// The one of that name, which must lie directly within these spans, the innermost first.
    #[track_caller]
    fn one<'h>(&'h self, name: &'h str, within: &[&str]) -> &'h Told {
        let found: Vec<_> = self.all(name).collect();
        assert_eq!(found.len(), 1, "{name}: {:#?}", self.0);
        assert_eq!(found[0].within, within, "{name}");
        found[0]
    }
}

fn loader(residency: Residency) -> Loader {
    let platform = Platform {
        system: Arc::new(TestSystem::new(residency)),
        ..weightloader::platform().clone()
    };
    Loader::builder().platform(platform).build().unwrap()
}

#[test]
fn a_listener_sees_every_phase() {
    let _watchdog = Watchdog::over("loading while somebody listens");
    let listener = Listener::default();
    let subscriber = tracing_subscriber::registry().with(listener.clone());
    // For all threads; this file has one test, since its subscriber hears them all.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let written = Written::single(&[3_000_000, 100, 2_000_000]);
    let bytes = written.bytes();

    let loader = loader(Residency::Alternating(1 << 20));
    let (checkpoint, heard) = listener.hear(|| loader.open(&written.path).unwrap());
    let open = heard.one("open", &["runtime"]);
    assert_eq!(open.fields["path"], written.path.display().to_string());
    let index = heard.one("index read", &["open", "runtime"]);
    assert_eq!(index.fields["tensors"], "3");
    assert_eq!(index.fields["bytes"], bytes.to_string());

    let shards = Written::sharded(&[vec![10, 20], vec![30]]);
    let (_, heard) = listener.hear(|| loader.open(&shards.path).unwrap());
    let index = heard.one("index read", &["open", "runtime"]);
    assert_eq!(index.fields["files"], "2");

    let (outcome, heard) = listener.hear(|| {
        let file = WeightFile::open(&written.path).unwrap();
        loader
            .prefetch(&file, ..)
            .unwrap()
            .wait(Operation::new())
            .unwrap()
    });
    let prefetch = heard.one("prefetch", &["runtime"]);
    assert!(prefetch.fields.contains_key("path"));
    let end = heard.one("prefetched", &["prefetch", "runtime"]);
    assert_eq!(end.fields["outcome"], format!("{outcome:?}"));
    for mechanism in heard.all("prefetching") {
        assert_eq!(mechanism.within, ["prefetch", "runtime"]);
    }

    let (model, heard) = listener.hear(|| loader.load(&checkpoint, Operation::new()).unwrap());
    let copy = heard.one("copy", &["runtime"]);
    let read = model.report().bytes;
    assert_eq!(
        (&copy.fields["bytes"], &copy.fields["files"]),
        (&read.to_string(), &"1".into())
    );
    let route = heard.one("route", &["copy", "runtime"]);
    assert!(["Direct", "Buffered"].contains(&route.fields["cold"].as_str()));
    if route.fields["cold"] == "Direct" {
        let residency = heard.one("residency", &["copy", "runtime"]);
        assert!(residency.fields.contains_key("resident"));
    } else {
        println!("skipped: residency is not asked for where there is no direct I/O");
    }
    let workers: Vec<_> = heard.all("worker").collect();
    assert!(!workers.is_empty());
    assert!(
        workers
            .iter()
            .all(|worker| worker.within == ["copy", "runtime"])
    );
    let phases: Vec<_> = heard.all("read").collect();
    assert!(
        phases
            .iter()
            .all(|phase| phase.within == ["worker", "copy", "runtime"])
    );
    for mechanism in model.report().chunks.keys() {
        // What goes by way of a slab is read by the same reader.
        let mechanism = mechanism.name().trim_end_matches("-bounced");
        let reads = |phase: &&Told| phase.fields["mechanism"] == mechanism;
        assert!(phases.iter().any(reads), "{mechanism}: {phases:#?}");
    }
    let copied = heard.one("copied", &["copy", "runtime"]);
    assert_eq!(copied.fields["bytes"], read.to_string());

    let (count, heard) = listener.hear(|| loader.stream(&checkpoint).unwrap().count());
    assert_eq!(count, 3);
    assert_eq!(heard.one("stream", &["runtime"]).fields["items"], "3");
    heard.one("copy", &["stream", "runtime"]);

    let ((), heard) = listener.hear(|| {
        let mut uploader = HostUploader::new();
        loader
            .upload(&checkpoint, &mut uploader, Operation::new())
            .unwrap();
    });
    assert_eq!(
        heard.one("upload", &["runtime"]).fields["uploader"],
        "\"host\""
    );
    let prepared = heard.one("prepared", &["upload", "runtime"]);
    assert_eq!(prepared.fields["landing"], "Import");
    heard.one("copy", &["upload", "runtime"]);
    heard.one("uploaded", &["upload", "runtime"]);
}
