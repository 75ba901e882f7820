//! Flex tensors as pointers and strides, and outputs as memory not yet written.

use burn::tensor::{Bytes, Element, Shape};
use burn_flex::{FlexTensor, Layout};
use bytemuck::Pod;

use super::simd::{Elem, by_dtype};

/// A tensor's elements where they lie. The tensor must outlive it.
#[derive(Clone, Copy)]
pub(super) struct View<E, const D: usize> {
    pub ptr: *const E,
    pub shape: [usize; D],
    /// In elements; of dimensions of size 1 they mean nothing.
    pub strides: [isize; D],
}

// SAFETY: a view is only read through, and the tensor it borrows is shared memory.
unsafe impl<E: Sync, const D: usize> Send for View<E, D> {}
unsafe impl<E: Sync, const D: usize> Sync for View<E, D> {}

impl<E: Element + Pod, const D: usize> View<E, D> {
    /// # Panics
    ///
    /// When rank or dtype differ, or the layout reaches outside the tensor's storage.
    pub(super) fn new(tensor: &FlexTensor) -> Self {
        let storage: &[E] = tensor.storage();
        let layout = tensor.layout();
        let shape: [usize; D] = layout.shape().dims();
        let strides: [isize; D] = core::array::from_fn(|i| layout.strides()[i]);
        let start = layout.start_offset() as isize;
        if shape.iter().all(|size| *size > 0) {
            let reach = |sign: isize| {
                let steps = shape.iter().zip(strides);
                start
                    + steps
                        .map(|(size, stride)| (*size as isize - 1) * stride)
                        .filter(|step| step.signum() == sign)
                        .sum::<isize>()
            };
            assert!(
                reach(-1) >= 0 && (reach(1) as usize) < storage.len(),
                "a layout reaches outside its storage"
            );
        }
        Self {
            ptr: storage.as_ptr().wrapping_offset(start),
            shape,
            strides,
        }
    }

    /// The element at `index`, which may be past the end as long as it is not read.
    #[inline(always)]
    pub(super) fn at(&self, index: [usize; D]) -> *const E {
        let mut ptr = self.ptr;
        for (i, stride) in index.into_iter().zip(self.strides) {
            ptr = ptr.wrapping_offset((i as isize).wrapping_mul(stride));
        }
        ptr
    }
}

/// A buffer under construction, written by several threads at places of their own.
pub(super) struct Output<E> {
    data: Vec<E>,
    len: usize,
}

impl<E: Element + Pod> Output<E> {
    pub(super) fn new(len: usize) -> Self {
        Self {
            data: Vec::with_capacity(len),
            len,
        }
    }

    pub(super) fn ptr(&mut self) -> Shared<E> {
        Shared(self.data.as_mut_ptr())
    }

    /// # Safety
    ///
    /// Every element must have been written.
    pub(super) unsafe fn finish(mut self, layout: Layout) -> FlexTensor {
        self.data.set_len(self.len);
        FlexTensor::new(Bytes::from_elems(self.data), layout, E::dtype())
    }
}

/// A pointer that threads share; they must write to different places.
pub(super) struct Shared<E>(pub *mut E);

impl<E> Clone for Shared<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Shared<E> {}

// SAFETY: whoever writes through it keeps to places that no other thread touches.
unsafe impl<E: Send> Send for Shared<E> {}
unsafe impl<E: Send> Sync for Shared<E> {}

impl<E> Shared<E> {
    #[inline(always)]
    pub(super) fn at(self, index: usize) -> *mut E {
        self.0.wrapping_add(index)
    }
}

/// A tensor in row-major order, copied only where it is not.
pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    match tensor.is_contiguous() {
        true => tensor,
        false => tensor.to_contiguous(),
    }
}

/// A small tensor's elements in f32 and row-major order.
pub(super) fn to_f32(tensor: &FlexTensor) -> Vec<f32> {
    fn widen<E: Elem>(tensor: &FlexTensor) -> Vec<f32> {
        let tensor = contiguous(tensor.clone());
        let start = tensor.layout().start_offset();
        let len = tensor.layout().num_elements();
        let storage: &[E] = tensor.storage();
        storage[start..start + len]
            .iter()
            .map(|x| x.widen())
            .collect()
    }
    by_dtype!(tensor.dtype(), widen(tensor))
}

/// The layout of a new row-major tensor.
pub(super) fn row_major<const D: usize>(shape: [usize; D]) -> Layout {
    Layout::contiguous(Shape::new(shape))
}
