//! The variables with which launchers number the processes that they start.

use super::RankError;

/// Processes that are started together at most.
const MAX_PROCESSES: usize = 4096;

/// The program that started the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Launcher {
    /// Open MPI's mpirun (`OMPI_COMM_WORLD_*`), MPICH's or Intel's (`PMI_*`).
    Mpirun,
    /// Slurm's srun (`SLURM_PROCID`, `SLURM_STEP_NUM_TASKS`).
    Srun,
    /// torchrun, or `apb launch` of a build without MPI (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`,
    /// `MASTER_PORT`).
    Torchrun,
}

impl Launcher {
    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mpirun => "mpirun",
            Self::Srun => "srun",
            Self::Torchrun => "torchrun",
        }
    }

    /// The variables with the number of this process, of all, and of this process on its machine.
    fn variables(self) -> &'static [[&'static str; 3]] {
        match self {
            Self::Mpirun => &[
                [
                    "OMPI_COMM_WORLD_RANK",
                    "OMPI_COMM_WORLD_SIZE",
                    "OMPI_COMM_WORLD_LOCAL_RANK",
                ],
                ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
            ],
            Self::Srun => &[["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"]],
            Self::Torchrun => &[["RANK", "WORLD_SIZE", "LOCAL_RANK"]],
        }
    }
}

/// This process among those that were started together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Environment {
    /// The program that started them.
    pub launcher: Launcher,
    /// This process, counted from 0.
    pub process: usize,
    /// The number of processes.
    pub processes: usize,
    /// This process on its machine: the index of its GPU.
    pub local_process: usize,
    /// The address of the rendezvous (`MASTER_ADDR`).
    pub rendezvous: Option<String>,
    /// Its port (`MASTER_PORT`). Where torchrun's own agent listens at that port, the next.
    pub rendezvous_port: Option<u16>,
}

impl Environment {
    /// Reads the launcher's variables; none where the process was started alone.
    ///
    /// # Errors
    ///
    /// [`RankError::Environment`] when a variable is no number, the numbers contradict each other, or there are more than
    /// 4,096 processes.
    pub fn detect() -> Result<Option<Self>, RankError> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, RankError> {
        let in_use = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        for launcher in [Launcher::Mpirun, Launcher::Srun, Launcher::Torchrun] {
            for [process, processes, local] in launcher.variables() {
                let (Some(_), Some(_)) = (get(process), get(processes)) else {
                    continue;
                };
                let number = |name: &str| {
                    let found = get(name).unwrap_or_default();
                    found
                        .trim()
                        .parse::<usize>()
                        .map_err(|_| RankError::Environment {
                            name: name.into(),
                            found,
                            expected: "a number".into(),
                        })
                };
                let environment = Self {
                    launcher,
                    process: number(process)?,
                    processes: number(processes)?,
                    local_process: match get(local) {
                        Some(_) => number(local)?,
                        None => 0,
                    },
                    rendezvous: get("MASTER_ADDR").filter(|address| !address.is_empty()),
                    rendezvous_port: match get("MASTER_PORT").filter(|port| !port.is_empty()) {
                        Some(found) => Some(port(found, in_use)?),
                        None => None,
                    },
                };
                if environment.processes > MAX_PROCESSES {
                    return Err(RankError::Environment {
                        name: (*processes).into(),
                        found: environment.processes.to_string(),
                        expected: format!("at most {MAX_PROCESSES}"),
                    });
                }
                if environment.process >= environment.processes {
                    return Err(RankError::Environment {
                        name: (*process).into(),
                        found: environment.process.to_string(),
                        expected: format!("less than {processes} ({})", environment.processes),
                    });
                }
                return Ok(Some(environment));
            }
        }
        Ok(None)
    }
}

/// `MASTER_PORT`, or the one after it where that is `in_use`.
fn port(found: String, in_use: bool) -> Result<u16, RankError> {
    let port = found.trim().parse::<u16>().ok();
    port.and_then(|port| port.checked_add(u16::from(in_use)))
        .filter(|port| *port > 0)
        .ok_or_else(|| RankError::Environment {
            name: "MASTER_PORT".into(),
            found,
            expected: "a port".into(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Result<Option<Environment>, RankError> {
        Environment::from_variables(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn every_launcher_is_detected() {
        assert_eq!(detect(&[]), Ok(None));
        assert_eq!(
            detect(&[("RANK", "1")]),
            Ok(None),
            "another program's variable"
        );
        for (variables, launcher, local) in [
            (
                &[
                    ("OMPI_COMM_WORLD_RANK", "2"),
                    ("OMPI_COMM_WORLD_SIZE", "4"),
                    ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
                    // As set by a Slurm allocation around mpirun.
                    ("SLURM_PROCID", "0"),
                    ("SLURM_STEP_NUM_TASKS", "1"),
                ][..],
                Launcher::Mpirun,
                1,
            ),
            (&[("PMI_RANK", "2"), ("PMI_SIZE", "4")], Launcher::Mpirun, 0),
            (
                &[
                    ("SLURM_PROCID", "2"),
                    ("SLURM_STEP_NUM_TASKS", "4"),
                    ("SLURM_LOCALID", "2"),
                ],
                Launcher::Srun,
                2,
            ),
            (
                &[("RANK", "2"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")],
                Launcher::Torchrun,
                0,
            ),
        ] {
            let found = detect(variables).unwrap().expect("a launcher");
            assert_eq!((found.launcher, found.local_process), (launcher, local));
            assert_eq!((found.process, found.processes), (2, 4), "{launcher:?}");
        }
        let given = [
            ("RANK", "0"),
            ("WORLD_SIZE", "1"),
            ("MASTER_ADDR", "10.0.0.1"),
        ];
        assert_eq!(
            detect(&given).unwrap().unwrap().rendezvous.as_deref(),
            Some("10.0.0.1")
        );
        let ports = |variables: &[(&str, &str)]| {
            let given = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "29500")];
            let found = detect(&[&given[..], variables].concat());
            found.unwrap().unwrap().rendezvous_port
        };
        assert_eq!(ports(&[]), Some(29500));
        assert_eq!(detect(&given).unwrap().unwrap().rendezvous_port, None);
        assert_eq!(
            ports(&[("TORCHELASTIC_USE_AGENT_STORE", "True")]),
            Some(29501)
        );
        // A batch step of Slurm: a shell that may start ranks, and no rank itself.
        assert_eq!(
            detect(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]),
            Ok(None)
        );
    }

    #[test]
    fn invalid_numbers_are_refused_by_name() {
        for (rank, size) in [
            ("x", "4"),
            ("-1", "4"),
            ("4", "4"),
            ("0", "0"),
            ("0", "many"),
            ("0", "4097"),
        ] {
            let refused = detect(&[("RANK", rank), ("WORLD_SIZE", size)]);
            assert!(
                matches!(refused, Err(RankError::Environment { .. })),
                "{rank} {size}"
            );
        }
        for port in ["x", "0", "65536"] {
            let given = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_PORT", port)];
            let refused = detect(&given);
            assert!(
                matches!(refused, Err(RankError::Environment { .. })),
                "{port}"
            );
        }
    }
}
