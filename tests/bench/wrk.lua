-- One request over and over, as `wrk` sends it without calling into Lua; at the end what was measured, as JSON.
local file = io.open(os.getenv("BENCH_REQUEST"))
for line in file:lines() do
  local name, value = line:match("^([%w-]+): (.*)$")
  if not name then break end
  wrk.headers[name] = value
end
wrk.method, wrk.body = "POST", file:read("*a")
file:close()

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"failures":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
