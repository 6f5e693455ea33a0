/* delta: commits: their text, and the try to be the one that a version belongs to (contract 1.8).
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/delta_priv.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"

#define ENGINE "sink-s3/0.1"

void delta_commit_encode(const struct delta_commit *c, struct buf *out)
{
    uint64_t rows = 0, bytes = 0;
    for (size_t i = 0; i < c->adds_n; i++) {
        rows += c->adds[i].rows > 0 ? (uint64_t)c->adds[i].rows : 0;
        bytes += c->adds[i].bytes;
    }
    buf_printf(out,
               "{\"commitInfo\":{\"timestamp\":%lld,\"operation\":\"STREAMING UPDATE\","
               "\"operationParameters\":{\"outputMode\":\"Append\",\"queryId\":\"sink-s3\","
               "\"epochId\":\"%lld\"},\"readVersion\":%lld,\"isolationLevel\":\"Serializable\","
               "\"isBlindAppend\":true,\"operationMetrics\":{\"numRemovedFiles\":\"0\","
               "\"numOutputRows\":\"%llu\",\"numOutputBytes\":\"%llu\",\"numAddedFiles\":\"%zu\"},"
               "\"engineInfo\":\"" ENGINE "\",\"txnId\":",
               (long long)c->timestamp_ms, (long long)c->version, (long long)c->version - 1,
               (unsigned long long)rows, (unsigned long long)bytes, c->adds_n);
    buf_json(out, str_of(c->txn_id));
    buf_printf(out, ",\"sluice.copies\":%llu", (unsigned long long)c->copies);
    if (c->lost_json.p) {
        buf_z(out, ",\"sluice.lost\":");
        buf_str(out, c->lost_json);
    }
    buf_z(out, "}}\n");
    for (size_t i = 0; i < c->txns_n; i++) {
        buf_z(out, "{\"txn\":{\"appId\":");
        buf_json(out, str_of(c->txns[i].app_id));
        buf_printf(out, ",\"version\":%lld,\"lastUpdated\":%lld}}\n", (long long)c->txns[i].version,
                   (long long)c->timestamp_ms);
    }
    for (size_t i = 0; i < c->adds_n; i++)
        delta_put_add(out, &c->adds[i], NULL, NULL, true);
}

int delta_put(struct delta *d, int64_t version, struct str body, const char *txn_id, struct err *e)
{
    char *key = delta_log_key(d, "%020lld.json", (long long)version);
    int rc = store_put_if_absent(d->store, key, body, e);
    mem_free(key);
    if (rc != ERR_EXISTS)
        return rc;
    struct buf there;
    buf_init(&there, DELTA_COMMIT_MAX_BYTES);
    struct err why = {0};
    rc = delta_log_get(d, version, &there, &why);
    if (rc) {
        buf_deinit(&there);
        return err_set(e, ERR_UNKNOWN, "version %lld is taken, and by whom is not known: %.380s",
                       (long long)version, why.text);
    }
    char *owner = delta_commit_txn_id(buf_as_str(&there));
    if (!owner || strcmp(owner, txn_id))
        rc = err_set(e, ERR_CONFLICT, "version %lld of %s is another's", (long long)version,
                     d->path);
    mem_free(owner);
    buf_deinit(&there);
    return rc;
}

int delta_create(struct delta *d, const char *schema_string, struct err *e)
{
    char txn_id[37], id[37];
    rnd_uuid(txn_id);
    rnd_uuid(id);
    long long now = (long long)clock_wall_ms();
    struct buf b;
    buf_init(&b, DELTA_COMMIT_MAX_BYTES);
    buf_printf(&b,
               "{\"commitInfo\":{\"timestamp\":%lld,\"operation\":\"CREATE TABLE\","
               "\"operationParameters\":{\"isManaged\":\"false\",\"partitionBy\":\"[]\","
               "\"properties\":\"{}\"},\"isolationLevel\":\"Serializable\",\"isBlindAppend\":true,"
               "\"operationMetrics\":{},\"engineInfo\":\"" ENGINE "\",\"txnId\":\"%s\"}}\n"
               "{\"protocol\":{\"minReaderVersion\":1,\"minWriterVersion\":2}}\n"
               "{\"metaData\":{\"id\":\"%s\",\"format\":{\"provider\":\"parquet\",\"options\":{}},"
               "\"schemaString\":",
               now, txn_id, id);
    buf_json(&b, str_of(schema_string));
    buf_printf(&b,
               ",\"partitionColumns\":[],\"configuration\":{\"delta.checkpointInterval\":\"100\"},"
               "\"createdTime\":%lld}}\n",
               now);
    char *key = delta_log_key(d, "%020d.json", 0);
    int rc = store_put_if_absent(d->store, key, buf_as_str(&b), e);
    mem_free(key);
    buf_deinit(&b);
    return rc == ERR_EXISTS ? 0 : rc;
}
