-- Requests of the bench for wrk: a fresh body, and where asked a fresh messageId for every event of every request.
--
-- Arguments, after "--": file with one event a line; API keys, comma separated, used in turn; path; events per request
-- (0: the event itself is the body); prefix of messageIds ("-": none); requests per second (0: as fast as answers come).
local ffi = require("ffi")
ffi.cdef [[
typedef struct { long tv_sec; long tv_nsec; } bench_timespec;
int clock_gettime(int clock, bench_timespec *time);
]]

local heads, events, per_request, prefix = {}, {}, 0, nil
local sent, number = 0, 0
local now = ffi.new("bench_timespec")

local function milliseconds()
  ffi.C.clock_gettime(1, now) -- CLOCK_MONOTONIC
  return tonumber(now.tv_sec) * 1e3 + tonumber(now.tv_nsec) / 1e6
end

local function next_event()
  number = number + 1
  local event = events[(number - 1) % #events + 1]
  if not prefix then
    return event
  end
  return string.format('%s,"messageId":"%s%012d"}', event, prefix, number)
end

local function next_body()
  if per_request == 0 then
    return next_event()
  end
  local parts = {}
  for position = 1, per_request do
    parts[position] = next_event()
  end
  return '{"events":[' .. table.concat(parts, ",") .. "]}"
end

local function pace(rate)
  local start, slot = milliseconds(), 0
  return function()
    slot = slot + 1
    local wait = start + slot * 1000 / rate - milliseconds()
    return wait > 0 and math.floor(wait + 0.5) or 0
  end
end

function init(args)
  local file, keys, path, count, wanted_prefix, rate = args[1], args[2], args[3], args[4], args[5], args[6]
  per_request = tonumber(count)
  prefix = wanted_prefix ~= "-" and wanted_prefix or nil
  for line in io.lines(file) do
    events[#events + 1] = prefix and line:sub(1, -2) or line -- without its closing brace: the messageId follows
  end
  for key in keys:gmatch("[^,]+") do
    heads[#heads + 1] = "POST " .. path .. " HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: " .. key ..
      "\r\nContent-Type: application/json\r\nContent-Length: "
  end
  if tonumber(rate) > 0 then
    delay = pace(tonumber(rate))
  end
end

function request()
  sent = sent + 1
  local body = next_body()
  return heads[(sent - 1) % #heads + 1] .. #body .. "\r\n\r\n" .. body
end

function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    '{"requests":%d,"seconds":%.6f,"refused":%d,"broken":%d,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f}',
    summary.requests, summary.duration / 1e6, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
