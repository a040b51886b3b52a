//! What the handle of a unit stands for: the program frees it, or it belongs to a callback.

use std::sync::Arc;

use engine::Unit;

use crate::border::{failure::Failure, handles::roletalk_unit, table};

struct UnitObject {
    unit: Unit,
    /// It belongs to a callback.
    lent: bool,
}

/// A handle that the other side frees.
pub(crate) fn insert(unit: Unit) -> roletalk_unit {
    roletalk_unit { id: table::insert(Arc::new(UnitObject { unit, lent: false })) }
}

/// The unit of a handle.
pub(crate) fn get(unit: roletalk_unit) -> Result<Unit, Failure> {
    Ok(table::get::<UnitObject>(unit.id)?.unit.clone())
}

/// The unit of a handle; none for zero.
pub(crate) fn optional(unit: roletalk_unit) -> Result<Option<Unit>, Failure> {
    match unit.id {
        0 => Ok(None),
        _ => get(unit).map(Some),
    }
}

/// Frees a handle of [`insert`].
///
/// # Errors
/// `Status::InvalidHandle`, `Status::InvalidArgument` for one that is lent.
pub(crate) fn free(unit: roletalk_unit) -> Result<(), Failure> {
    if table::get::<UnitObject>(unit.id)?.lent {
        return Err(Failure::invalid("The unit is borrowed: it ends with the callback"));
    }
    table::remove::<UnitObject>(unit.id).map(drop)
}

/// A handle that ends with this.
pub(crate) struct LentUnit {
    unit: Unit,
    handle: roletalk_unit,
}

impl LentUnit {
    pub(crate) fn new(unit: Unit) -> LentUnit {
        let id = table::insert(Arc::new(UnitObject { unit: unit.clone(), lent: true }));
        LentUnit { unit, handle: roletalk_unit { id } }
    }

    pub(crate) fn unit(&self) -> &Unit {
        &self.unit
    }

    pub(crate) fn handle(&self) -> roletalk_unit {
        self.handle
    }
}

impl Drop for LentUnit {
    fn drop(&mut self) {
        let _ = table::remove::<UnitObject>(self.handle.id);
    }
}
