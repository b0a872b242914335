//! Encodes a resource once per dialect and name, for as long as somebody follows it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use weft_control_plane_core::catalog::{Resolved, Versioned};
use weft_control_plane_core::dialect::Dialect;
use weft_control_plane_core::resource::{Key, Kind, Name};
use weft_control_plane_core::stream::Content;
use weft_control_plane_core::version::Version;

use crate::encode::{self, Context, ENCODING_REVISION};

/// What one encoding depends on, beside the resource: the dialect, the name it was asked by (gRPC expects its own
/// spelling), and where Envoy's listener binds.
type Form = (Dialect, Name, Option<SocketAddr>);

/// An encoding, with the version of the value that it is of.
#[derive(Debug)]
struct Encoded {
    of: Version,
    content: Option<Content>,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Encoder {
    trust_domain: Name,
    encoded: BTreeMap<Key, BTreeMap<Form, Encoded>>,
}

impl Encoder {
    pub(super) fn new(trust_domain: Name) -> Self {
        Self {
            trust_domain,
            encoded: BTreeMap::new(),
        }
    }

    /// The content of a resource as a client of `dialect` gets it under `name`; `None`: for it there is none.
    pub(super) fn content(
        &mut self,
        resolved: &Resolved,
        name: &Name,
        dialect: Dialect,
        listen: Option<SocketAddr>,
    ) -> Option<Content> {
        let value = resolved.value.as_ref()?;
        let form = form(&resolved.key, name, dialect, listen);
        let forms = self.encoded.entry(resolved.key.clone()).or_default();
        if let Some(encoded) = forms.get(&form)
            && encoded.of == value.version
        {
            return encoded.content.clone();
        }
        let content = encode(value, &form, &self.trust_domain);
        let encoded = Encoded {
            of: value.version,
            content: content.clone(),
        };
        forms.insert(form, encoded);
        content
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// How many encodings are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.encoded.values().map(BTreeMap::len).sum()
    }

    /// Nobody follows it any longer.
    pub(super) fn forget(&mut self, key: &Key) {
        self.encoded.remove(key);
    }

    /// A client follows it no longer. What only few can share goes with it, as there is no end to such forms: another
    /// spelling of the name, an Envoy's own address. Who still wants one has it encoded again.
    pub(super) fn forget_form(
        &mut self,
        key: &Key,
        name: &Name,
        dialect: Dialect,
        listen: Option<SocketAddr>,
    ) {
        let form = form(key, name, dialect, listen);
        if (*name != key.name || form.2.is_some())
            && let Some(forms) = self.encoded.get_mut(key)
        {
            forms.remove(&form);
        }
    }
}

fn form(key: &Key, name: &Name, dialect: Dialect, listen: Option<SocketAddr>) -> Form {
    let binds = dialect == Dialect::Envoy && key.kind == Kind::Listener;
    (dialect, name.clone(), listen.filter(|_| binds))
}

fn encode(value: &Versioned, form: &Form, trust_domain: &Name) -> Option<Content> {
    let (dialect, name, listen) = form;
    let context = Context {
        trust_domain,
        listen: *listen,
    };
    let any = encode::encode(name, &value.resource, *dialect, &context)?;
    let parts = (
        value.version,
        dialect.as_str(),
        &**name,
        listen,
        &**trust_domain,
        ENCODING_REVISION,
    );
    Some(Content {
        version: Version::of(&parts),
        body: any.value.into(),
    })
}
