//! Where probes are attached.

use std::path::Path;

use probe_common::BlockLayout;

use crate::{
    image::ProbePoint,
    kernel::{AttachError, Kernel},
};

/// Where probes are attached: the kernel.
pub trait Probes {
    /// Attaches the probes of an image to a file; says how many.
    ///
    /// # Errors
    ///
    /// If any of them is refused.
    fn attach(
        &mut self,
        image: u32,
        layout: BlockLayout,
        points: &[ProbePoint],
        path: &Path,
    ) -> Result<usize, AttachError>;

    /// Attaches more of them, which go before the others.
    ///
    /// # Errors
    ///
    /// If any of them is refused.
    fn attach_temporary(
        &mut self,
        image: u32,
        layout: BlockLayout,
        points: &[ProbePoint],
        path: &Path,
    ) -> Result<usize, AttachError>;

    /// Removes these.
    fn detach_temporary(&mut self, image: u32);

    /// Removes all probes of an image: they do nothing from now on.
    fn detach(&mut self, image: u32);

    /// How many more probes there is room for: now, and soon.
    fn room(&mut self) -> (usize, usize);
}

impl Probes for Kernel {
    fn attach(
        &mut self,
        image: u32,
        layout: BlockLayout,
        points: &[ProbePoint],
        path: &Path,
    ) -> Result<usize, AttachError> {
        self.attach(image, layout, points, path)
    }

    fn attach_temporary(
        &mut self,
        image: u32,
        layout: BlockLayout,
        points: &[ProbePoint],
        path: &Path,
    ) -> Result<usize, AttachError> {
        self.attach_temporary(image, layout, points, path)
    }

    fn detach_temporary(&mut self, image: u32) {
        self.detach_temporary(image);
    }

    fn detach(&mut self, image: u32) {
        self.detach(image);
    }

    fn room(&mut self) -> (usize, usize) {
        self.room()
    }
}
