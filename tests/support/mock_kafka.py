"""librdkafka's mock cluster inside the test's own process: real sockets and the real protocol, with faults by order.

It keeps 5 MiB a partition, and answers no admin requests but for descriptions: topics are made by calls here.

SPDX-License-Identifier: Apache-2.0
"""
import ctypes
import os

CACHE = os.environ.get("SLUICE_CACHE", os.path.expanduser("~/.cache/sluice"))
PRODUCE = 0
DISCONNECT, NOT_ENOUGH_REPLICAS, TOO_LARGE, DENIED = -195, 19, 10, 29


def library():
    lib = ctypes.CDLL(os.path.join(CACHE, "rdkafka", "librdkafka-2.15.so"))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(lib, name).restype = ctypes.c_void_p
    lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    lib.rd_kafka_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    lib.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
    lib.rd_kafka_conf_set.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    for name in ("rd_kafka_mock_cluster_bootstraps", "rd_kafka_mock_cluster_destroy", "rd_kafka_destroy"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
    lib.rd_kafka_mock_broker_add.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    lib.rd_kafka_mock_broker_set_down.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    lib.rd_kafka_mock_broker_set_up.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    lib.rd_kafka_mock_broker_set_rtt.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int]
    lib.rd_kafka_mock_topic_create.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
    lib.rd_kafka_mock_push_request_errors_array.argtypes = [ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t,
                                                            ctypes.POINTER(ctypes.c_int)]
    return lib


class MockKafka:
    BROKERS = (0, 1)  # 0 is the controller that the cluster names, and has none of by itself

    def __init__(self):
        self.lib = library()
        text = ctypes.create_string_buffer(256)
        conf = self.lib.rd_kafka_conf_new()
        self.lib.rd_kafka_conf_set(conf, b"log_level", b"0", text, 256)
        self.rk = self.lib.rd_kafka_new(0, conf, text, 256)
        assert self.rk, text.value
        self.cluster = self.lib.rd_kafka_mock_cluster_new(self.rk, 1)
        assert self.cluster and self.lib.rd_kafka_mock_broker_add(self.cluster, 0) == 0
        self.address = self.lib.rd_kafka_mock_cluster_bootstraps(self.cluster).decode()

    def topic(self, name, partitions=1):
        assert self.lib.rd_kafka_mock_topic_create(self.cluster, name.encode(), partitions, 1) == 0

    def fail(self, error, times=1, request=PRODUCE):
        self.lib.rd_kafka_mock_push_request_errors_array(self.cluster, request, times, (ctypes.c_int * times)(*[error] * times))

    def down(self):
        for broker in self.BROKERS:
            self.lib.rd_kafka_mock_broker_set_down(self.cluster, broker)

    def up(self):
        for broker in self.BROKERS:
            self.lib.rd_kafka_mock_broker_set_up(self.cluster, broker)

    def rtt(self, ms):
        for broker in self.BROKERS:
            self.lib.rd_kafka_mock_broker_set_rtt(self.cluster, broker, ms)

    def close(self):
        self.lib.rd_kafka_mock_cluster_destroy(self.cluster)
        self.lib.rd_kafka_destroy(self.rk)
