//! An order: one call of a function, as the gateway has sent it, and the function's settings decoded.
//!
//! The gateway sends the same bytes for a function each time, so they are decoded once and found again by themselves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::protocol::function_spec::FunctionSpec;
use crate::protocol::worker_protocol::Invocation;

/// Functions whose settings are kept decoded, at about a kilobyte each. Then all are forgotten, and decoded anew.
const SPECS_MAX: usize = 4096;

pub struct Order {
    pub invocation: Invocation,
    pub spec: Arc<FunctionSpec>,
}

/// The settings of functions, decoded. Guards the map; held for a look or an insertion.
#[derive(Default)]
pub struct Specs(Mutex<HashMap<Vec<u8>, Arc<FunctionSpec>>>);

impl Specs {
    /// # Errors
    /// [`Error::Protocol`](crate::error::Error::Protocol) where the settings cannot be decoded.
    pub fn get(&self, settings: &[u8]) -> Result<Arc<FunctionSpec>> {
        if let Some(spec) = self.0.lock().expect("nothing panics under this lock").get(settings) {
            return Ok(spec.clone());
        }
        let spec = Arc::new(FunctionSpec::decode(settings)?);
        let mut specs = self.0.lock().expect("nothing panics under this lock");
        if specs.len() >= SPECS_MAX {
            specs.clear();
        }
        specs.insert(settings.to_vec(), spec.clone());
        Ok(spec)
    }
}
