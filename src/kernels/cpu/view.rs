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
// SAFETY: as above.
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
        if shape.iter().all(|size| *size > 0) {
            // The lowest or the highest index, by the steps of one sign; none where it is beyond what can be counted.
            let reach = |sign: isize| -> Option<isize> {
                let start = isize::try_from(layout.start_offset()).ok()?;
                let mut steps = shape.iter().zip(strides);
                steps.try_fold(start, |at, (size, stride)| {
                    let step = isize::try_from(*size - 1).ok()?.checked_mul(stride)?;
                    match step.signum() == sign {
                        true => at.checked_add(step),
                        false => Some(at),
                    }
                })
            };
            let (first, last) = (reach(-1), reach(1));
            assert!(
                first.is_some_and(|first| first >= 0)
                    && last.is_some_and(|last| last.unsigned_abs() < storage.len()),
                "a layout reaches outside its storage"
            );
        }
        Self {
            ptr: storage.as_ptr().wrapping_add(layout.start_offset()),
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
// SAFETY: as above.
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

#[cfg(test)]
mod tests {
    use burn::tensor::{Bytes, DType, Shape};
    use burn_flex::{FlexTensor, Layout};

    use super::View;

    fn view(size: usize, stride: isize, start: usize) {
        let layout = Layout::new(Shape::new([size]), vec![stride], start);
        let data = Bytes::from_elems(vec![0f32; 4]);
        View::<f32, 1>::new(&FlexTensor::new(data, layout, DType::F32));
    }

    #[test]
    fn layouts_within_their_storage() {
        view(4, 1, 0);
        view(4, -1, 3);
        view(usize::MAX / 2, 0, 3);
        view(0, isize::MAX, 9);
    }

    #[test]
    #[should_panic(expected = "a layout reaches outside its storage")]
    fn a_reach_that_wraps_to_the_start_is_refused() {
        view(5, isize::MAX / 2 + 1, 0);
    }

    #[test]
    #[should_panic(expected = "a layout reaches outside its storage")]
    fn a_start_behind_the_storage_is_refused() {
        view(1, 1, 4);
    }

    #[test]
    #[should_panic(expected = "a layout reaches outside its storage")]
    fn a_reach_before_the_storage_is_refused() {
        view(3, -1, 1);
    }
}
