//! The root is exchanged for real: two replicas, a sidecar, and a client that takes its time to confirm.

use std::convert::Infallible;
use std::process::Stdio;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt};
use tokio::process::Child;
use weft_control_plane::kubernetes::cluster_bundle;
use weft_control_plane::kubernetes::root::SECRET;
use weft_control_plane::kubernetes::rotation::{NOTE, PHASE};
use weft_control_plane::kubernetes::trust::{CONFIG_MAP, KEY};
use weft_identity::bundle::TrustBundle;
use weft_tests::kube::until;
use weft_tests::mesh::Sidecar;
use weft_tests::process::weft_binary;
use weft_tests::xds::{Called, Delta, certify};
use weft_xds_proto::{names, types};

use crate::installed::{Installed, NAME, SHOP, SYSTEM};
use crate::place::{ControlPlane, found};

/// What both roots and what is said about them are in.
struct Root<'a> {
    mesh: &'a Installed,
    secrets: Api<Secret>,
}

impl<'a> Root<'a> {
    fn of(mesh: &'a Installed) -> Self {
        Self {
            mesh,
            secrets: Api::namespaced(mesh.client.clone(), SYSTEM),
        }
    }

    /// Waits until the Secret says this of the exchange.
    async fn notes(&self, expected: &str) -> Secret {
        let says = |secret: &Secret| {
            let note = secret.annotations().get(NOTE);
            note.is_some_and(|note| note.contains(expected))
        };
        until(self.secrets.clone(), SECRET, expected, says).await
    }

    /// The certificate that signs.
    async fn signs(&self) -> String {
        let secret = self.secrets.get(SECRET).await.expect("the Secret");
        let data = secret.data.expect("data");
        String::from_utf8(data["tls.crt"].0.clone()).expect("PEM")
    }

    /// Waits until every copy of the bundle is this.
    async fn published(&self, pem: &str) {
        for namespace in [SHOP, SYSTEM] {
            let maps: Api<ConfigMap> = Api::namespaced(self.mesh.client.clone(), namespace);
            let is_so = |map: &ConfigMap| map.data.as_ref().is_some_and(|data| data[KEY] == pem);
            until(maps, CONFIG_MAP, "these roots", is_so).await;
        }
        let bundles: Api<ClusterTrustBundle> = Api::all(self.mesh.client.clone());
        let is_so = |bundle: &ClusterTrustBundle| bundle.spec.trust_bundle == pem;
        until(bundles, cluster_bundle::NAME, "these roots", is_so).await;
    }

    /// Runs `weft ca` to its end; what it printed.
    async fn ca(&self, arguments: &str) -> String {
        let output = self
            .ca_starting(arguments)
            .wait_with_output()
            .await
            .expect("weft runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "weft ca {arguments}: {told}{error}");
        told
    }

    fn ca_starting(&self, arguments: &str) -> Child {
        tokio::process::Command::new(weft_binary())
            .arg("ca")
            .args(arguments.split_whitespace())
            .env("KUBECONFIG", self.mesh.kubernetes.kubeconfig())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("weft can be started")
    }
}

/// A client of `plane` that has got the roots, and has confirmed nothing.
async fn slow(mesh: &Installed, plane: &ControlPlane) -> Delta {
    let roots = mesh.bundle(SHOP).await;
    let roots = TrustBundle::from_pem("cluster.local".parse().expect("a domain"), roots.as_bytes());
    let called = Called {
        address: plane.address("xds"),
        roots: roots.expect("roots"),
    };
    let leaf = certify(called.clone(), &mesh.pod("slow").await)
        .await
        .expect("a leaf");
    let mut slow = Delta::open(called, &leaf, "shop/sa/default", "weft").await;
    slow.subscribe(types::SECRET, &[&names::trust_bundle("cluster.local")])
        .await;
    slow.next().await;
    slow
}

/// Confirms whatever comes.
async fn confirm(slow: &mut Delta) -> Infallible {
    loop {
        slow.next().await;
    }
}

/// Waits until the sidecar trusts so many roots.
async fn trusts(sidecar: &Sidecar, roots: u64) {
    let look = async || (sidecar.page("/config").await["identity"]["roots"] == roots).then_some(());
    found(&format!("the sidecar trusts {roots} roots"), look).await;
}

/// Whether a sidecar's certificate leads to these roots.
async fn is_of(mesh: &Installed, sidecar: &str, roots: &str) -> bool {
    let file = mesh.path().join("roots.pem");
    std::fs::write(&file, roots).expect("writable");
    let leaf = mesh.path().join(sidecar).join("leaf.pem");
    let verify = format!("verify -CAfile {} {}", file.display(), leaf.display());
    let verify: Vec<_> = verify.split(' ').collect();
    mesh.kubernetes.tool("openssl", &verify, "").await.is_ok()
}

#[tokio::test]
async fn the_root_is_exchanged_when_everybody_has_confirmed_and_by_whoever_leads() {
    let mesh = Installed::new().await;
    mesh.shop().await;
    let root = Root::of(&mesh);
    let [mut leader, other] = {
        let credential = mesh.credential(SYSTEM, NAME, None).await;
        let leader = mesh.replica("weft-control-plane-leader", &credential).await;
        mesh.leads(&leader.pod).await;
        [
            leader,
            mesh.replica("weft-control-plane-other", &credential).await,
        ]
    };
    let sidecar = mesh.sidecar("user", &leader, &[]).await;
    let mut slow = slow(&mesh, &other).await;
    let (old, before) = (root.signs().await, mesh.bundle(SHOP).await);
    root.published(&before).await;

    // Whoever interrupts the command interrupts nothing else, and an exchange that is given up leaves no trace.
    let mut rotating = root.ca_starting("rotate");
    root.notes("1 of 2 proxies have confirmed the roots").await;
    rotating.kill().await.expect("killed");
    trusts(&sidecar, 2).await;
    assert_eq!(root.signs().await, old);
    let told = root.ca("abort").await;
    assert!(
        told.contains("given up: the new root is trusted no longer"),
        "{told}"
    );
    root.published(&before).await;
    trusts(&sidecar, 1).await;

    // On hold while a replica can't be reached; then it waits for the client of that replica.
    other.process.signal(libc::SIGSTOP);
    root.ca("rotate --no-wait").await;
    root.notes(&format!("on hold: no answer from {}", other.pod))
        .await;
    other.process.signal(libc::SIGCONT);
    let secret = root.notes("1 of 2 proxies have confirmed the roots").await;
    assert_eq!(root.signs().await, old);
    let both = String::from_utf8(secret.data.expect("data")["ca.crt"].0.clone()).expect("PEM");

    // The leader dies; the other one goes on, once its client has confirmed.
    leader.process.kill().await;
    mesh.forget(&leader.pod).await;
    mesh.leads(&other.pod).await;
    root.notes("0 of 1 proxies have confirmed the roots").await;
    let resuming = root.ca("resume");
    let told = tokio::select! {
        told = resuming => told,
        never = confirm(&mut slow) => match never {},
    };
    assert!(told.contains("retiring until"), "{told}");
    let new = root.signs().await;
    assert!(new != old && both.contains(new.trim()) && both.contains(old.trim()));

    former_root_ends(&mesh, &root, &other, (&old, &new)).await;
}

/// Until the last leaf of the old root is over both are trusted, and from then on the new one alone.
async fn former_root_ends(mesh: &Installed, root: &Root<'_>, plane: &ControlPlane, (old, new): (&str, &str)) {
    let _late = mesh.sidecar("late", plane, &[]).await;
    assert!(is_of(mesh, "late", new).await && is_of(mesh, "user", old).await);
    assert!(!is_of(mesh, "late", old).await && !is_of(mesh, "user", new).await);
    root.published(&mesh.bundle(SHOP).await).await;

    // That moment is brought forward.
    let over = format!("{PHASE}=retiring until 1");
    let annotate = ["annotate", "secret", SECRET, "-n", SYSTEM, "--overwrite", &over];
    mesh.kubernetes.kubectl(&annotate).await.expect("annotated");
    let secret = root.notes("done: the former root is trusted no longer").await;
    assert_eq!(
        secret.data.expect("data").len(),
        3,
        "nothing is left of the old root"
    );
    root.published(new).await;
    let told = root.ca("status").await;
    assert!(told.starts_with("no exchange is going on: done"), "{told}");
}
