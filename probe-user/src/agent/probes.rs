//! Where probes are attached.

use std::path::Path;

use probe_common::BlockLayout;

use crate::{
    image::ProbePlan,
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
        plan: &ProbePlan,
        path: &Path,
    ) -> Result<usize, AttachError>;

    /// All contexts of an image are known: removes the probes that look for others.
    fn settle(&mut self, image: u32);

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
        plan: &ProbePlan,
        path: &Path,
    ) -> Result<usize, AttachError> {
        self.attach(image, layout, plan, path)
    }

    fn settle(&mut self, image: u32) {
        self.settle(image);
    }

    fn detach(&mut self, image: u32) {
        self.detach(image);
    }

    fn room(&mut self) -> (usize, usize) {
        self.room()
    }
}
