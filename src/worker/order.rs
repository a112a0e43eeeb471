//! An order: one call of a function, as the gateway has sent it, with the worker's own findings about the function.
//!
//! The gateway sends the same settings for a function each time, so the worker decodes them once and finds them by
//! their bytes.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::error::Result;
use crate::log_budget::LogBudget;
use crate::protocol::function_spec::FunctionSpec;
use crate::protocol::worker_protocol::Invocation;

/// Functions whose settings are kept decoded, at about a kilobyte each. At this number, all are forgotten and decoded
/// anew.
const FUNCTIONS_MAX: usize = 4096;
/// Time for which a function whose child has asked for exec is started by exec. After it the obstacle may be gone.
const BY_EXEC: Duration = Duration::from_secs(60);

pub struct Order {
    pub invocation: Invocation,
    pub function: Arc<Function>,
    /// The request body, if it came as a descriptor.
    pub body: Option<File>,
}

impl Order {
    pub fn spec(&self) -> &FunctionSpec {
        &self.function.spec
    }
}

/// A function's settings, decoded, and the worker's findings about it.
pub struct Function {
    pub spec: FunctionSpec,
    /// The last time a child reported that it cannot serve the function.
    refused: Mutex<Option<Instant>>,
    /// Bounds its stderr.
    pub log_budget: LogBudget,
}

impl Function {
    /// True if it is to be started by exec, since a forked process could not serve it.
    pub fn is_by_exec(&self) -> bool {
        self.refused.lock().expect("nothing panics under this lock").is_some_and(|at| at.elapsed() < BY_EXEC)
    }

    pub fn note_refusal(&self) {
        *self.refused.lock().expect("nothing panics under this lock") = Some(Instant::now());
    }
}

/// The functions that the gateway has asked for. Guards the map; held for a look or an insertion.
#[derive(Default)]
pub struct Functions(Mutex<HashMap<Vec<u8>, Arc<Function>>>);

impl Functions {
    /// # Errors
    /// [`InvocationError::Protocol`](super::error::InvocationError::Protocol) if the settings cannot be decoded.
    pub fn get(&self, settings: &[u8]) -> Result<Arc<Function>> {
        if let Some(function) = self.0.lock().expect("nothing panics under this lock").get(settings) {
            return Ok(function.clone());
        }
        let function = Arc::new(Function {
            spec: FunctionSpec::decode(settings)?,
            refused: Mutex::default(),
            log_budget: LogBudget::new(),
        });
        let mut functions = self.0.lock().expect("nothing panics under this lock");
        if functions.len() >= FUNCTIONS_MAX {
            functions.clear();
        }
        functions.insert(settings.to_vec(), function.clone());
        Ok(function)
    }
}
