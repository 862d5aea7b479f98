// The plain C interface of the CPU kernels. Everything here is called through ctypes; no torch, NumPy or Python header
// is needed.
//
// Every function returns a fastia_status and describes what went wrong in `error`. Results are the same bits for any
// number of threads.
#pragma once
#include <stdint.h>

#if defined(_WIN32)
#define FASTIA_API __declspec(dllexport)
#else
#define FASTIA_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum fastia_dtype { FASTIA_UINT8, FASTIA_INT16, FASTIA_UINT16, FASTIA_INT32, FASTIA_INT64 };  // bool is read as uint8
enum fastia_float { FASTIA_FLOAT16, FASTIA_BFLOAT16, FASTIA_FLOAT32, FASTIA_FLOAT64 };
enum fastia_status {
    FASTIA_OK,
    FASTIA_INVALID_ID,
    FASTIA_OUT_OF_MEMORY,
    FASTIA_TOO_MANY_COMPONENTS,
    FASTIA_NEGATIVE_WEIGHT,
    FASTIA_UNKNOWN_LOSS
};
enum fastia_protocol { FASTIA_WACV2024, FASTIA_EXACT };
enum fastia_normalizer { FASTIA_PER_CLASS, FASTIA_FOREGROUND };

// A batch of maps of ids, [B, H, W], strides in bytes.
typedef struct {
    const void* data;
    int64_t shape[3];
    int64_t strides[3];
    int32_t dtype;
} fastia_masks;

// An id that may be absent (Python's None).
typedef struct {
    int32_t present;
    int64_t value;
} fastia_id;

typedef struct {
    fastia_id background;
    fastia_id ignore_index;
    int32_t connectivity;  // 4 or 8
    int32_t threads;
} fastia_component_options;

typedef struct {
    fastia_component_options components;
    fastia_id instance_ignore_index;
    fastia_id num_classes;
    int32_t protocol;
} fastia_overlap_options;

// For FASTIA_INVALID_ID: `argument` counts the maps of the call from 0, `value` is the id that is not allowed. For
// FASTIA_NEGATIVE_WEIGHT: `value` is the index of the weight in [B * H * W].
typedef struct {
    int32_t argument;
    int64_t value;
} fastia_error;

// Component tables of a batch, and instance tables of a batch: read with the functions below, then freed.
typedef struct fastia_component_table fastia_component_table;
typedef struct fastia_instance_table fastia_instance_table;

FASTIA_API const char* fastia_instruction_set(void);

FASTIA_API int32_t fastia_label(const fastia_masks* masks, const fastia_component_options* options, int32_t* labels,
                                fastia_error* error);

FASTIA_API int32_t fastia_weights(const fastia_masks* masks, const fastia_component_options* options,
                                  int32_t normalizer, double tau, int32_t weight_dtype, void* weights,
                                  fastia_error* error);

FASTIA_API int32_t fastia_components(const fastia_masks* masks, const fastia_component_options* options,
                                     int32_t* labels, int32_t* count, fastia_component_table** table,
                                     fastia_error* error);
// Fills class_id [B, columns], area [B, columns], bbox [B, columns, 4]; components beyond the columns are left out.
FASTIA_API void fastia_components_copy(const fastia_component_table* table, int64_t columns, int32_t* class_id,
                                       int64_t* area, int32_t* bbox);
FASTIA_API void fastia_components_free(fastia_component_table* table);

// `instances` may be null: the components of `target` serve. `confusion` [B, C, C + 1] may be null.
FASTIA_API int32_t fastia_instance_iou(const fastia_masks* preds, const fastia_masks* target,
                                       const fastia_masks* instances, const fastia_overlap_options* options,
                                       int64_t* confusion, int32_t* count, int32_t* unmatched_count,
                                       fastia_instance_table** table, fastia_error* error);
FASTIA_API void fastia_instances_copy(const fastia_instance_table* table, int64_t columns, int32_t* class_id,
                                      int32_t* instance_id, int64_t* area, int64_t* intersection, double* covered,
                                      double* iou);
FASTIA_API void fastia_unmatched_copy(const fastia_instance_table* table, int64_t columns, int32_t* class_id,
                                      int64_t* area);
// Every predicted component of a foreground class with pixels void in neither map, in raster order: count [B], and
// [B, columns] each. Of the instance of its class with which it has an IoU above 1/2 off void: its area in its record,
// and the pixels off void of both and of either; or 0.
FASTIA_API void fastia_matches_count(const fastia_instance_table* table, int32_t* count);
FASTIA_API void fastia_matches_copy(const fastia_instance_table* table, int64_t columns, int32_t* class_id,
                                    int64_t* area, int64_t* void_area, int64_t* instance_area, int64_t* intersection,
                                    int64_t* union_area);
FASTIA_API void fastia_instances_free(fastia_instance_table* table);

// Logits or their gradient, [B, C, h, w], strides in bytes; dtype is a fastia_float.
typedef struct {
    void* data;
    int64_t shape[4];
    int64_t strides[4];
    int32_t dtype;
} fastia_logits;

// A pixel loss of logits upsampled bilinearly to the size of the target. Floats other than the logits are float64
// where these are, else float32.
typedef struct {
    const char* name;          // "cross_entropy"
    const double* parameters;  // those of the pixel loss; of the cross-entropy: label smoothing
    fastia_logits logits;
    fastia_masks target;
    const void* weights;       // [B, H, W], or null: 1
    const void* class_weight;  // [C], or null: 1
    fastia_id ignore_index;
    int32_t align_corners;
    int32_t threads;
} fastia_pixel_loss;

// Fills loss and lse [B, H, W] (0 where ignored) and sums [3]: of the loss, of weight * class_weight over the pixels
// that are not ignored, and their number.
FASTIA_API int32_t fastia_upsample_loss(const fastia_pixel_loss* problem, void* loss, double* lse, double* sums,
                                        fastia_error* error);
// `grad` is the gradient of each pixel's loss, [B, H, W] with strides in bytes, all 0 for one value.
FASTIA_API int32_t fastia_upsample_loss_backward(const fastia_pixel_loss* problem, const void* grad,
                                                 const int64_t* grad_strides, const double* lse,
                                                 const fastia_logits* grad_logits, fastia_error* error);
// Fills ids [B, height, width]: uint8 for up to 256 classes, else int32.
FASTIA_API int32_t fastia_upsample_argmax(const fastia_logits* logits, int64_t height, int64_t width,
                                          int32_t align_corners, int32_t threads, void* ids, fastia_error* error);

#ifdef __cplusplus
}
#endif
