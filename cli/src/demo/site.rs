//! The demo's folder and the command lines of its processes.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::topology::{BROKER_AUTHORITY, NAMESPACE, Replica, Role, load, replicas};
use crate::token;

/// SPIFFE trust domain, and DNS domain of Services.
const DOMAIN: &str = "cluster.local";

/// How long a token holds. It is needed until a process has its first certificate, and again when its key is lost.
const TOKEN_LIFETIME: Duration = Duration::from_hours(24 * 30);

/// How long a sidecar waits for what runs when it is asked to end.
const DRAIN_TIME: &str = "10s";

/// Where the control plane keeps registrations, in its state folder.
const REGISTRATIONS: &str = "registrations.json";

/// A port that the kernel chooses.
const ANY_PORT: &str = "127.0.0.1:0";

/// The folder.
#[derive(Debug)]
pub(crate) struct Site {
    dir: PathBuf,
}

impl Site {
    /// Makes the folder's parts. Manifests that are there already, edited by the user, stay.
    pub(crate) fn prepare(dir: &Path) -> anyhow::Result<Self> {
        let dir = std::path::absolute(dir)?;
        let site = Self { dir };
        for part in ["manifests", "logs", "tokens", "state", "data"] {
            let part = site.dir.join(part);
            fs::create_dir_all(&part).with_context(|| format!("{} can't be made", part.display()))?;
        }
        for (name, text) in weft_shop::manifests::ALL {
            let path = site.manifests().join(name);
            if !path.exists() {
                fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))?;
            }
        }
        site.forget()?;
        Ok(site)
    }

    /// Removes what the sidecars of an earlier run knew and registered: nothing of it is where it was.
    fn forget(&self) -> anyhow::Result<()> {
        let names = replicas().into_iter().chain([load()]);
        let states = names.map(|replica| self.state(&replica.name));
        for path in states.chain([self.state("control-plane").join(REGISTRATIONS)]) {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("{} can't be removed", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The folder itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the user edits.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// Whether the manifests are as they were copied.
    pub(crate) fn untouched(&self) -> bool {
        let as_copied = |(name, text): &(&str, &str)| {
            fs::read_to_string(self.manifests().join(name)).is_ok_and(|found| found == *text)
        };
        weft_shop::manifests::ALL.iter().all(as_copied)
    }

    /// Where a process logs.
    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{process}.log"))
    }

    fn state(&self, process: &str) -> PathBuf {
        self.dir.join("state").join(process)
    }

    fn token(&self, account: &str) -> PathBuf {
        self.dir.join("tokens").join(account)
    }

    fn data(&self, service: &str) -> io::Result<PathBuf> {
        let data = self.dir.join("data").join(service);
        fs::create_dir_all(&data)?;
        Ok(data)
    }

    /// Makes the token of a service account, granting it the Services that it is named after.
    pub(crate) fn make_token(&self, account: &str) -> anyhow::Result<()> {
        let services = match account {
            "load" => Vec::new(),
            account => vec![account.to_owned()],
        };
        let made = token::make(
            &self.state("control-plane"),
            NAMESPACE,
            account,
            services,
            TOKEN_LIFETIME,
        )?;
        weft_identity::files::write_private(&self.token(account), made.token.as_bytes())?;
        Ok(())
    }

    /// `weft control-plane …`, listening where it did before.
    pub(crate) fn control_plane(&self, listen: Option<SocketAddr>) -> Vec<String> {
        let listen = listen.map_or_else(|| ANY_PORT.to_owned(), |address| address.to_string());
        let mut line = Line::new(&["control-plane"]);
        line.path("--manifests", &self.manifests());
        line.path("--state-dir", &self.state("control-plane"));
        line.pair("--listen", listen);
        line.common();
        line.0
    }

    /// `weft shop …`.
    pub(crate) fn application(&self, replica: &Replica, rate: u32) -> io::Result<Vec<String>> {
        let mut line = match replica.role {
            Role::Service(service) => {
                let mut line = Line::new(&["shop", "app"]);
                line.pair("--service", service.name());
                line.pair("--replica", &replica.name);
                line.pair("--version", replica.version);
                line.path("--data", &self.data(service.name())?);
                line
            }
            Role::Broker => Line::new(&["shop", "broker"]),
            Role::Load => {
                let mut line = Line::new(&["shop", "load"]);
                line.pair("--rate", rate.to_string());
                line
            }
        };
        line.0.push("--leash".into());
        Ok(line.0)
    }

    /// `weft proxy run …` for the application that listens on `ports`, in the order of [`Replica::offers`].
    pub(crate) fn sidecar(
        &self,
        replica: &Replica,
        ports: &[SocketAddr],
        control_plane: SocketAddr,
    ) -> Vec<String> {
        let mut line = Line::new(&["proxy", "run"]);
        line.pair("--control-plane", control_plane.to_string());
        line.path(
            "--trust-bundle",
            &self.state("control-plane").join("trust-bundle.pem"),
        );
        line.path("--token-file", &self.token(replica.service()));
        line.path("--state-dir", &self.state(&replica.name));
        line.pair("--namespace", NAMESPACE);
        line.pair("--workload", &replica.name);
        line.pair("--outbound", ANY_PORT);
        for (service, port) in replica.offers().iter().zip(ports) {
            line.pair("--inbound", format!("{ANY_PORT}={port}"));
            line.pair("--register", format!("{service}={port}"));
        }
        if !ports.is_empty() {
            line.pair("--label", format!("app={}", replica.service()));
            line.pair("--label", format!("version={}", replica.version));
        }
        if replica.uses_broker() {
            line.pair("--bind", format!("{ANY_PORT}={BROKER_AUTHORITY}"));
        }
        line.pair("--workers", "1");
        line.pair("--drain-time", DRAIN_TIME);
        line.pair("--access-log", "off");
        line.common();
        line.0
    }
}

/// A command line in the making.
struct Line(Vec<String>);

impl Line {
    fn new(command: &[&str]) -> Self {
        Self(command.iter().map(|&word| word.to_owned()).collect())
    }

    fn pair(&mut self, flag: &str, value: impl Into<String>) {
        self.0.extend([flag.to_owned(), value.into()]);
    }

    fn path(&mut self, flag: &str, path: &Path) {
        self.pair(flag, path.display().to_string());
    }

    /// What control plane and sidecars are told alike.
    fn common(&mut self) {
        self.pair("--status", ANY_PORT);
        self.pair("--admin", ANY_PORT);
        self.pair("--trust-domain", DOMAIN);
        self.pair("--cluster-domain", DOMAIN);
        self.pair("--log-level", "warn");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edited_manifests_stay_and_registrations_are_forgotten() {
        let dir = std::env::temp_dir().join(format!("weft-site-{}", std::process::id()));
        let site = Site::prepare(&dir).unwrap();
        let routes = site.manifests().join("routes.yaml");
        fs::write(&routes, "edited").unwrap();
        for part in ["control-plane", "user-1"] {
            fs::create_dir(site.state(part)).unwrap();
        }
        let registrations = site.state("control-plane").join(REGISTRATIONS);
        fs::write(&registrations, "{}").unwrap();
        let again = Site::prepare(&dir).unwrap();
        assert!(!registrations.exists() && !site.state("user-1").exists());
        assert!(site.state("control-plane").exists(), "the mesh's root stays");
        assert_eq!(
            fs::read_to_string(again.manifests().join("routes.yaml")).unwrap(),
            "edited"
        );
        assert!(again.manifests().join("services.yaml").exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_sidecar_registers_what_its_application_offers() {
        let site = Site { dir: "/demo".into() };
        let inventory = replicas()
            .into_iter()
            .find(|replica| replica.name == "inventory-2")
            .unwrap();
        let ports: Vec<SocketAddr> = vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
        let line = site
            .sidecar(&inventory, &ports, "127.0.0.1:9".parse().unwrap())
            .join(" ");
        assert!(line.contains("--inbound 127.0.0.1:0=127.0.0.1:2 --register inventory:81=127.0.0.1:2"));
        assert!(line.contains("--label app=inventory --label version=v1"));
        let load = site
            .sidecar(&load(), &[], "127.0.0.1:9".parse().unwrap())
            .join(" ");
        assert!(!load.contains("--register") && !load.contains("--bind"));
    }
}
