/* Watching files and folders for changes. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* The name goes into the region, where it lasts as long as the record. A turn so full that it has no room there
 * reports the change without one. */
static void on_fs_event(uv_fs_event_t *watch, const char *name, int events, int status) {
  ffloop_loop *loop = FFLOOP_OF(watch);
  int64_t offset = -1;
  int what = (events & UV_RENAME ? FFLOOP_RENAMED : 0) | (events & UV_CHANGE ? FFLOOP_CHANGED : 0);

  if (name != NULL) {
    size_t size = strlen(name) + 1;
    if (loop->region_used < loop->region_size && size <= loop->region_size - loop->region_used) {
      memcpy(loop->region + loop->region_used, name, size);
      offset = (int64_t) loop->region_used;
      ffloop_use_region(loop, size);
    }
  }
  ffloop_append(loop, FFLOOP_TOKEN(watch), FFLOOP_FS_EVENT, status < 0 ? status : what, offset);
}

uv_handle_t *ffloop_fs_event_new(ffloop_loop *loop, int64_t token, int *error) {
  uv_handle_t *watch = ffloop_handle_new(UV_FS_EVENT, token);

  *error = UV_ENOMEM;
  if (watch == NULL)
    return NULL;
  *error = uv_fs_event_init(&loop->uv, (uv_fs_event_t *) watch);
  if (*error != 0) {
    free(watch);
    return NULL;
  }
  return watch;
}

/* Copies `path`. */
int ffloop_fs_event_start(uv_handle_t *watch, const char *path) {
  return uv_fs_event_start((uv_fs_event_t *) watch, on_fs_event, path, 0);
}

/* What has changed, given the payload of a record of the last ffloop_run; NULL when the system does not say. */
const char *ffloop_fs_event_name(ffloop_loop *loop, int64_t payload) {
  return payload < 0 ? NULL : loop->region + payload;
}
