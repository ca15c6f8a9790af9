-- One check: the translation of `step` in crates/core/src/store/step.rs, operation by operation.
-- What is true of the one must be true of the other; a differential test holds them together.
--
-- KEYS     one record per distinct key
-- ARGV     for each operation 10 numbers: index into KEYS, cost (0: peek), label, not_before, not_after,
--          ceiling, floor used, floor refunded, enforce (1 or 0), expires
-- reply    {2, now, and for each operation: its record's newest label or 0}: relabel, nothing was done
--          {admitted (1 or 0), now, and for each operation: passes (1 or 0), used, refunded}
--
-- All times are microseconds; all numbers stay below 2^53, where Lua's doubles count exactly.
-- A record is MessagePack: version 1, label, used, refunded, previous used, previous refunded.
-- Every read comes before the first write, so that an error leaves nothing half done.

local FIELDS = 10
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local drafts = {}
local replies = {}
local admitted = true
local charges = false

-- A draft holds two outcomes: `l` lifted to the floors, `c` also charged.
-- Each is {label, used, refunded, previous used, previous refunded}.

local function turn(r, label)
  if label == r[1] or label + 1 == r[1] then return true end
  if label < r[1] then return false end
  if label == r[1] + 1 then
    r[4], r[5] = r[2], r[3]
  else
    r[4], r[5] = 0, 0
  end
  r[1], r[2], r[3] = label, 0, 0
  return true
end

-- Where the counts of `label` begin in a record that was turned to it.
local function at(r, label)
  if label == r[1] then return 2 end
  return 4
end

-- The answer to labels that do not fit: it says how far the records are.
local function relabel()
  local reply = {2, now}
  for i = 0, #ARGV / FIELDS - 1 do
    local value = redis.call('GET', KEYS[tonumber(ARGV[i * FIELDS + 1])])
    local label = 0
    if value then label = select(2, cmsgpack.unpack(value)) or 0 end
    reply[#reply + 1] = label
  end
  return reply
end

for i = 0, #ARGV / FIELDS - 1 do
  local o = {}
  for f = 1, FIELDS do o[f] = tonumber(ARGV[i * FIELDS + f]) end
  local key, cost, label = o[1], o[2], o[3]
  if now < o[4] or now >= o[5] then return relabel() end

  local d = drafts[key]
  if not d then
    local value = redis.call('GET', KEYS[key])
    local version, l, u, r, pu, pr
    if value then
      version, l, u, r, pu, pr = cmsgpack.unpack(value)
      if version ~= 1 then
        return redis.error_reply('TIDEGATE record ' .. KEYS[key] .. ' has version ' .. tostring(version))
      end
    else
      l, u, r, pu, pr = label, 0, 0, 0, 0
    end
    d = {found = value, expires = nil, l = {l, u, r, pu, pr}, c = {l, u, r, pu, pr}}
    drafts[key] = d
  end
  if not turn(d.l, label) or not turn(d.c, label) then return relabel() end

  local a = at(d.l, label)
  for _, r in ipairs({d.l, d.c}) do
    if o[7] > r[a] then r[a] = o[7] end
    if o[8] > r[a + 1] then r[a + 1] = o[8] end
  end
  -- A record lives as long as its newest label asks; an operation on the label before changes nothing.
  if label == d.l[1] then d.expires = o[10] end

  local passes = true
  if cost > 0 then
    charges = true
    passes = d.c[a] - d.c[a + 1] + cost <= o[6]
    if passes then d.c[a] = d.c[a] + cost end
  end
  if not passes and o[9] == 1 then admitted = false end
  replies[i + 1] = {key, label, passes}
end

for _, d in pairs(drafts) do
  if admitted then d.l = d.c end
end
if charges then
  for key, d in pairs(drafts) do
    local r = d.l
    local value = cmsgpack.pack(1, r[1], r[2], r[3], r[4], r[5])
    local empty = r[2] == 0 and r[3] == 0 and r[4] == 0 and r[5] == 0
    if value ~= d.found and (d.found or not empty) then
      if d.expires then
        redis.call('SET', KEYS[key], value, 'PXAT', math.ceil(d.expires / 1000))
      else
        redis.call('SET', KEYS[key], value, 'KEEPTTL')
      end
    end
  end
end

local reply = {admitted and 1 or 0, now}
for _, o in ipairs(replies) do
  local r = drafts[o[1]].l
  local a = at(r, o[2])
  reply[#reply + 1] = o[3] and 1 or 0
  reply[#reply + 1] = r[a]
  reply[#reply + 1] = r[a + 1]
end
return reply
