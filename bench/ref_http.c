/* ref_http: the least that an HTTP server on h2o and libuv can do: it takes a POST in and answers with fixed bytes.
 *
 * The answer is of the gateway's size and type. Prints the port on stdout, ends on SIGTERM.
 * SPDX-License-Identifier: Apache-2.0  */
#include <h2o.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

static const char answer[] =
    "{\"key_schema_id\":null,\"value_schema_id\":null,\"offsets\":[{\"partition\":0,"
    "\"offset\":1234567,\"error_code\":null,\"error\":null}]}";

static h2o_globalconf_t config;
static h2o_context_t context;
static h2o_accept_ctx_t accept_context;

static int on_request(h2o_handler_t *self, h2o_req_t *req)
{
    static h2o_generator_t generator;
    h2o_iovec_t body = {(char *)answer, sizeof(answer) - 1};
    (void)self;
    req->res.status = 200;
    req->res.reason = "OK";
    req->res.content_length = body.len;
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL,
                   H2O_STRLIT("application/vnd.kafka.v2+json"));
    h2o_start_response(req, &generator);
    h2o_send(req, &body, 1, 1);
    return 0;
}

static void on_connection(uv_stream_t *listener, int status)
{
    if (status)
        return;
    uv_tcp_t *conn = h2o_mem_alloc(sizeof(*conn));
    uv_tcp_init(listener->loop, conn);
    if (uv_accept(listener, (uv_stream_t *)conn)) {
        uv_close((uv_handle_t *)conn, (uv_close_cb)free);
        return;
    }
    h2o_accept(&accept_context, h2o_uv_socket_create((uv_stream_t *)conn, (uv_close_cb)free));
}

int main(void)
{
    static uv_loop_t loop;
    static uv_tcp_t listener;
    struct sockaddr_in address;
    int size = sizeof(address);
    uv_loop_init(&loop);
    h2o_config_init(&config);
    h2o_hostconf_t *host =
        h2o_config_register_host(&config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    h2o_pathconf_t *path = h2o_config_register_path(host, "/", 0);
    h2o_create_handler(path, sizeof(h2o_handler_t))->on_req = on_request;
    h2o_context_init(&context, &loop, &config);
    accept_context.ctx = &context;
    accept_context.hosts = config.hosts;
    uv_tcp_init(&loop, &listener);
    uv_ip4_addr("127.0.0.1", 0, &address);
    if (uv_tcp_bind(&listener, (struct sockaddr *)&address, 0) ||
        uv_listen((uv_stream_t *)&listener, 128, on_connection) ||
        uv_tcp_getsockname(&listener, (struct sockaddr *)&address, &size)) {
        fputs("ref_http: cannot listen\n", stderr);
        return 71;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return uv_run(&loop, UV_RUN_DEFAULT);
}
