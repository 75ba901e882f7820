//! Attention with regions, and the few fused operations around it. Kernels know only tensors.
