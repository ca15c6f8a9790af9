-- Load for wrk: POST /v1/check, for one caller or for many.
--
--   REPORT=report.json wrk … -s bench/checks.lua http://127.0.0.1:8080 -- KEYS
--
-- Each request is for one of KEYS callers, drawn at random. The figures are written to $REPORT.

-- All keys are equally long, so that requests differ in six digits and in nothing else.
local KEY = "key-%06d"

function init(arguments)
   local keys = tonumber(arguments[1])
   local key = KEY:format(0)
   wrk.method, wrk.path = "POST", "/v1/check"
   wrk.body = '{"attributes":{"api_key":"' .. key .. '","route":"/api/orders"},"cost":1}'
   wrk.headers["Content-Type"] = "application/json"
   if keys == 1 then
      return -- wrk repeats the one request without asking Lua
   end

   local text = wrk.format()
   local first, last = text:find(key, 1, true)
   local before, after = text:sub(1, first - 1), text:sub(last + 1)
   math.randomseed(keys)
   request = function()
      return before .. KEY:format(math.random(0, keys - 1)) .. after
   end
end

function done(summary, latency)
   local errors = summary.errors
   local report = assert(io.open(os.getenv("REPORT"), "w"))
   report:write(('{"requests":%d,"seconds":%.6f,"errors":%d,"p50_us":%d,"p99_us":%d}\n'):format(
      summary.requests,
      summary.duration / 1e6,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout,
      latency:percentile(50),
      latency:percentile(99)
   ))
   report:close()
end
