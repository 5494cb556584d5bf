"""Operators that count 0 MACs by convention.

MACs are those of convolutions, linear layers and matrix products. Pointwise arithmetic, reductions, normalisation,
activations, pooling, resizing, and the creation, movement, comparison or sampling of data count 0.

An operator that is neither here nor in `compress.measure.mac_formulas` is reported with its layer as uncounted, so
that a new one is never silently 0: decompositions, inverses, Fourier transforms, pairwise distances, sparse and
quantised products, operators of other libraries.

Names are those of torch's dispatcher without "aten::" and without the trailing underscore of in-place variants.
"""

_POINTWISE = """
abs absolute acos acosh add addcdiv addcmul angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan
atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp
clamp_max clamp_min clip complex conj conj_physical _conj copysign cos cosh deg2rad digamma div divide dropout elu erf
erfc erfinv exp exp2 expm1 alpha_dropout feature_alpha_dropout feature_dropout native_dropout _fused_dropout
float_power floor floor_divide fmax fmin fmod frac frexp gcd gelu glu hardshrink hardsigmoid hardswish hardtanh
heaviside hypot i0 igamma igammac imag lcm ldexp leaky_relu lerp lgamma log log10 log1p log2 log_sigmoid logaddexp
logaddexp2 logical_and logical_not logical_or logical_xor logit maximum minimum mish mul multiply mvlgamma nan_to_num
neg negative nextafter polar polygamma positive pow prelu _prelu_kernel rad2deg real reciprocal relu relu6 remainder
round rrelu rrelu_with_noise rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink sqrt
square sub subtract tan tanh threshold true_divide trunc fix where xlogy _add_relu __and__ __or__ __xor__ __lshift__
__rshift__ __iand__ __ior__ __ixor__ masked_fill special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0
special_bessel_y1 special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_chebyshev_polynomial_v
special_chebyshev_polynomial_w special_hermite_polynomial_h special_hermite_polynomial_he
special_laguerre_polynomial_l special_legendre_polynomial_p special_modified_bessel_i0 special_modified_bessel_i1
special_modified_bessel_k0 special_modified_bessel_k1 special_scaled_modified_bessel_k0
special_scaled_modified_bessel_k1 special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u
special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w special_spherical_bessel_j0
special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit
special_expm1 special_gammainc special_gammaincc special_gammaln special_i0 special_i0e special_i1 special_i1e
special_log1p special_log_ndtr special_logit special_multigammaln special_ndtr special_ndtri special_polygamma
special_psi special_round special_sinc special_xlog1py special_xlogy special_zeta dequantize quantize_per_channel
quantize_per_tensor quantize_per_tensor_dynamic fake_quantize_per_channel_affine fake_quantize_per_tensor_affine
fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask fused_moving_avg_obs_fake_quant
_thnn_fused_lstm_cell _thnn_fused_gru_cell
"""
_COMPARING = """
all allclose any argmax argmin argsort argwhere bucketize count_nonzero eq equal ge greater greater_equal gt isclose
isfinite isin isinf isnan isneginf isposinf isreal is_nonzero is_same_size kthvalue le less less_equal lt msort ne
nonzero nonzero_numpy nonzero_static not_equal searchsorted sort topk unique_consecutive unique_dim
unique_dim_consecutive _unique _unique2 _is_all_true _is_any_true
"""
_REDUCTIONS = """
amax amin aminmax bincount cummax cummin cumprod cumsum cumulative_trapezoid diff dist frobenius_norm gradient histc
histogram histogramdd linalg_vector_norm logcumsumexp logsumexp max mean median min mode nanmean nanmedian nanquantile
nansum norm norm_except_dim pairwise_distance prod quantile renorm segment_reduce special_logsumexp std std_mean sum
sum_to_size trace trapezoid trapz var var_mean
"""
_NORMALISING = """
batch_norm cudnn_batch_norm miopen_batch_norm native_batch_norm _batch_norm_impl_index group_norm native_group_norm
instance_norm layer_norm native_layer_norm rms_norm _fused_rms_norm _weight_norm _weight_norm_interface softmax
log_softmax _softmax _log_softmax _safe_softmax special_softmax special_log_softmax
"""
_POOLING_AND_RESIZING = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d fractional_max_pool2d
fractional_max_pool3d grid_sampler grid_sampler_2d grid_sampler_3d cudnn_grid_sampler max_pool1d
max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
max_unpool3d upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
upsample_nearest3d upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
"""
_MOVING = """
adjoint alias as_strided as_strided_scatter atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to
cartesian_prod cat channel_shuffle native_channel_shuffle chunk clone col2im column_stack combinations concat
concatenate constant_pad_nd contiguous copy cpu cross cuda detach diag diag_embed diagflat diagonal diagonal_scatter
dsplit dstack embedding embedding_renorm expand expand_as fill fill_diagonal fft_fftshift fft_ifftshift flatten flip
fliplr flipud gather hsplit hstack im2col index index_add index_copy index_fill index_put index_reduce index_select
linalg_cross linalg_diagonal mH mT masked_scatter masked_select matrix_H meshgrid moveaxis movedim narrow numpy_T
one_hot pad pad_sequence permute pin_memory pixel_shuffle pixel_unshuffle put ravel reflection_pad1d reflection_pad2d
reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d requires_grad reshape
reshape_as resize resize_as resolve_conj resolve_neg roll rot90 row_stack scatter scatter_add scatter_reduce select
select_scatter set slice slice_scatter split split_with_sizes squeeze stack swapaxes swapdims t take take_along_dim
tensor_split tile to to_dense to_sparse to_sparse_bsc to_sparse_bsr to_sparse_csc to_sparse_csr coalesce
to_padded_tensor transpose tril triu type_as unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes
unsqueeze view view_as view_as_complex view_as_real vsplit vstack data lift lift_fresh _pack_padded_sequence
_pad_packed_sequence _reshape_alias _to_copy _unsafe_index _unsafe_index_put _unsafe_view _cast_Byte _cast_Char
_cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short alias_copy as_strided_copy detach_copy
diagonal_copy expand_copy permute_copy select_copy slice_copy split_copy split_with_sizes_copy squeeze_copy t_copy
transpose_copy unbind_copy unfold_copy unsqueeze_copy view_copy
"""
_CREATION = """
arange as_tensor bartlett_window bernoulli binomial blackman_window cauchy empty empty_like empty_permuted
empty_strided exponential eye fft_fftfreq fft_rfftfreq from_file full full_like geometric hamming_window hann_window
kaiser_window linspace log_normal logspace multinomial new_empty new_empty_strided new_full new_ones new_zeros normal
ones ones_like poisson rand rand_like randint randint_like randn randn_like random randperm scalar_tensor tensor
tril_indices triu_indices uniform vander linalg_vander zero zeros zeros_like _dim_arange _shape_as_tensor
_standard_gamma _sample_dirichlet
"""
_LOSSES = """
binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss hinge_embedding_loss
huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss nll_loss nll_loss2d
nll_loss_nd poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss
"""
_ATTRIBUTES = """
Bool Complex Float Int IntImplicit FloatImplicit ScalarImplicit __contains__ __derive_index __getitem__ __is__
__isnot__ __not__ __range_length append can_cast dim element_size format get_device is_complex is_contiguous
is_floating_point is_grad_enabled is_scripting item items keys len list numel result_type size storage_offset str
stride sym_numel sym_size sym_storage_offset sym_stride values warn _assert_async _assert_scalar
_assert_tensor_metadata _functional_assert_async _local_scalar_dense
"""
_TORCHVISION = """
torchvision::nms torchvision::ps_roi_align torchvision::ps_roi_pool torchvision::roi_align torchvision::roi_pool
"""

ZERO_MAC_OPERATORS = frozenset(
    " ".join(
        (
            _POINTWISE,
            _COMPARING,
            _REDUCTIONS,
            _NORMALISING,
            _POOLING_AND_RESIZING,
            _MOVING,
            _CREATION,
            _LOSSES,
            _ATTRIBUTES,
        )
    ).split()
) | frozenset(_TORCHVISION.split())
