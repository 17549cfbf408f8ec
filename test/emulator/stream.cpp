/* Streams and events. Work waits in its stream's queue until something synchronises that needs it; what runs
 * then, and in which order, is as random as the dependencies allow. So a wait that is missing shows. */
#include "machine.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

/* A record of an event: where the stream was. */
struct mark {
    bool done;
    struct CUstream_st *stream;
};

enum kind { WORK, CHANGE, RECORD, WAIT };

struct item {
    enum kind kind;
    const char *what;
    uint64_t number; /* in the order of asking */
    std::function<void()> work;
    std::shared_ptr<struct mark> mark;
};

struct CUstream_st {
    std::deque<struct item> queue;
};

struct CUevent_st {
    std::shared_ptr<struct mark> mark; /* of the latest record, or nullptr */
};

static std::vector<struct CUstream_st *> streams;
static uint64_t asked; /* items so far */
static const char *running;

/* Memory that the host has used, after the items below `number` had been asked for. */
struct claim {
    uintptr_t address;
    size_t bytes;
    uint64_t number;
};
static std::vector<struct claim> claims;

const char *running_work(void)
{
    return running;
}

/* ---- running */

static void check_claims(const struct item *item)
{
    for (const struct claim &claim : claims)
        if (item->number < claim.number && memory_touched_since(claim.address, claim.bytes, moment.launch))
            emulator_fail(
                "MPI was given memory that work asked for before uses only now: the host did not wait "
                "for it");
}

/* Items that claims are older than are all done. */
static void drop_claims(void)
{
    uint64_t waiting = asked;
    for (const struct CUstream_st *stream : streams)
        if (!stream->queue.empty()) waiting = std::min(waiting, stream->queue.front().number);
    std::erase_if(claims, [=](const struct claim &claim) { return claim.number <= waiting; });
}

static void run_work(const char *what, const struct item *item, const std::function<void()> &work)
{
    running = what;
    moment_begin();
    work();
    if (item) check_claims(item);
    moment_end();
    running = nullptr;
}

/* Runs the stream's next item, or one that it waits for. */
static void step(struct CUstream_st *stream)
{
    while (stream->queue.front().kind == WAIT && !stream->queue.front().mark->done)
        stream = stream->queue.front().mark->stream;
    struct item item = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (item.kind == WORK) run_work(item.what, &item, item.work);
    if (item.kind == CHANGE) item.work();
    if (item.kind == RECORD) item.mark->done = true;
}

static struct CUstream_st *any_with_work(void)
{
    size_t first = streams.empty() ? 0 : random_number(streams.size());
    for (size_t i = 0; i < streams.size(); i++) {
        struct CUstream_st *stream = streams[(first + i) % streams.size()];
        if (!stream->queue.empty()) return stream;
    }
    return nullptr;
}

/* Runs what `done` needs, of `stream`; other streams go on beside it at times. */
template <class Done> static void run_until(struct CUstream_st *stream, Done done)
{
    if (done()) return;
    if (running) emulator_fail("a CUDA call that waits, made by work of the device");
    const bool others_too = random_number(2) == 0;
    memory_open();
    while (!done()) step(others_too && random_number(2) == 0 ? any_with_work() : stream);
    memory_close();
    drop_claims();
}

static void run_stream(struct CUstream_st *stream)
{
    run_until(stream, [=] { return stream->queue.empty(); });
}

void drain_streams(void)
{
    while (struct CUstream_st *stream = any_with_work()) {
        const size_t before = stream->queue.size();
        run_until(stream, [=] { return stream->queue.size() < before; });
    }
}

/* ---- asking */

static void add_item(struct CUstream_st *stream, struct item item)
{
    if (!stream) emulator_fail("%s on the default stream, which the backend does not use", item.what);
    if (running) emulator_fail("%s asked for by work of the device", item.what);
    item.number = asked++;
    stream->queue.push_back(std::move(item));
    if (random_number(32) == 0) { // a device does not wait for the host either
        struct CUstream_st *chosen = any_with_work();
        const size_t before = chosen->queue.size();
        run_until(chosen, [=] { return chosen->queue.size() < before; });
    }
}

void emulator_enqueue(cudaStream_t stream, const char *what, std::function<void()> work)
{
    add_item(stream, {WORK, what, 0, std::move(work), nullptr});
}

void enqueue_change(cudaStream_t stream, std::function<void()> change)
{
    add_item(stream, {CHANGE, "a change of memory", 0, std::move(change), nullptr});
}

void use_at_once(void *device, size_t bytes, const char *what, const std::function<void()> &use)
{
    memory_open();
    run_work(what, nullptr, [&] {
        emulator_read(device, bytes, what);
        use();
        emulator_write(device, bytes, what);
    });
    memory_close();
    claims.push_back({reinterpret_cast<uintptr_t>(device), bytes, asked});
    drop_claims();
}

/* ---- the runtime's calls */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    if (flags != cudaStreamNonBlocking)
        emulator_fail("a stream without cudaStreamNonBlocking: it would wait for the default stream's work");
    *stream = new CUstream_st();
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    run_stream(stream);
    std::erase(streams, stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (!stream) return cudaSuccess; // the default stream, which nothing uses
    run_stream(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    if (random_number(4) == 0) run_stream(stream); // work goes on while the host asks
    return stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    drain_streams();
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int)
{
    if (event->mark) add_item(stream, {WAIT, "cudaStreamWaitEvent", 0, nullptr, event->mark});
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int)
{
    *event = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    event->mark = std::make_shared<struct mark>(false, stream);
    add_item(stream, {RECORD, "cudaEventRecord", 0, nullptr, event->mark});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (auto mark = event->mark) run_until(mark->stream, [=] { return mark->done; });
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    auto mark = event->mark;
    if (!mark || mark->done) return cudaSuccess;
    if (random_number(4) == 0) run_until(mark->stream, [=] { return mark->done; });
    return mark->done ? cudaSuccess : cudaErrorNotReady;
}
