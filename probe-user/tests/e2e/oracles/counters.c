/* For Node: asks the OpenSSL that is linked into the executable for a value of
 * the SSL_CTX at an address. */

#include <node_api.h>
#include <stdint.h>

/* Exported by the executable. */
extern long SSL_CTX_ctrl(void *ctx, int cmd, long larg, void *parg);

static napi_value control(napi_env env, napi_callback_info info) {
  napi_value arguments[2], result;
  size_t count = 2;
  uint64_t ctx;
  bool lossless;
  int32_t command;
  if (napi_get_cb_info(env, info, &count, arguments, NULL, NULL) != napi_ok ||
      napi_get_value_bigint_uint64(env, arguments[0], &ctx, &lossless) != napi_ok ||
      napi_get_value_int32(env, arguments[1], &command) != napi_ok) {
    napi_throw_error(env, NULL, "control(address: BigInt, command: number)");
    return NULL;
  }
  long value = SSL_CTX_ctrl((void *)(uintptr_t)ctx, command, 0, NULL);
  if (napi_create_int64(env, value, &result) != napi_ok) return NULL;
  return result;
}

NAPI_MODULE_INIT() {
  napi_value function;
  if (napi_create_function(env, "control", NAPI_AUTO_LENGTH, control, NULL, &function) != napi_ok)
    return NULL;
  napi_set_named_property(env, exports, "control", function);
  return exports;
}
