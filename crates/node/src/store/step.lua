-- One check: the translation of `step` in crates/core/src/store/step.rs, operation by operation.
-- What is true of the one must be true of the other; a differential test holds them together.
--
-- KEYS     the marker, then one record per distinct key
-- ARGV     the server's history as the caller knows it, or an empty string, and
--          for each operation 11 numbers: index into KEYS, action (0: peek, 1: charge, 2: heal), cost, label,
--          not_before, not_after, ceiling, floor used, floor refunded, enforce (1 or 0), expires
-- reply    {2, now, epoch, and for each operation: its record's newest label or 0}: relabel, nothing was done
--          {admitted (1 or 0), now, epoch, and for each operation: passes (1 or 0), used, refunded}
--
-- All times are microseconds; all numbers stay below 2^53, where Lua's doubles count exactly.
-- A record is MessagePack: version 1, label, used, refunded, previous used, previous refunded.
-- The marker is text: version 1, the server's history (master_replid), epoch.
-- Every read comes before the first write, so that an error leaves nothing half done.

local FIXED, FIELDS = 1, 11
local PEEK, CHARGE, HEAL = 0, 1, 2
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- The epoch. If the marker is missing or tells of another history than the caller, the server is asked;
-- if the marker does not tell of its history, the records may be incomplete, and a new epoch begins.
local marker = redis.pcall('GET', KEYS[1])
if type(marker) == 'table' then
  if not string.find(marker.err, '^WRONGTYPE') then return marker end
  marker = 'another type'
end
local history, epoch
if marker then
  history, epoch = string.match(marker, '^1 (%x+) (%d+)$')
  if not epoch then
    return redis.error_reply('TIDEGATE marker ' .. KEYS[1] .. ' is not one of ours: remove it')
  end
  epoch = tonumber(epoch)
end
local begun
if history ~= ARGV[1] then
  local truth = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  if not truth then return redis.error_reply('TIDEGATE INFO replication has no master_replid') end
  if history ~= truth then
    epoch = math.max((epoch or 0) + 1, now)
    begun = string.format('1 %s %.0f', truth, epoch)
  end
end

-- Writes the marker of an epoch that begins, when nothing can fail any more.
local function begin()
  if begun then redis.call('SET', KEYS[1], begun) end
end

local drafts = {}
local replies = {}
local admitted = true
local writes = false

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

-- The five numbers of a record; nothing if there is none, and an error besides if it is not one of ours.
local function read(key)
  local value = redis.call('GET', KEYS[key])
  if not value then return nil end
  local fine, version, l, u, r, pu, pr = pcall(cmsgpack.unpack, value)
  if fine and version == 1 then
    local numbers = {l, u, r, pu, pr}
    for i = 1, 5 do fine = fine and type(numbers[i]) == 'number' end
    if fine then return value, numbers end
  end
  local what = fine and 'version ' .. tostring(version) or 'no version'
  return nil, redis.error_reply('TIDEGATE record ' .. KEYS[key] .. ' has ' .. what)
end

-- The answer to labels that do not fit: it says how far the records are.
local function relabel()
  local reply = {2, now, epoch}
  for i = 0, (#ARGV - FIXED) / FIELDS - 1 do
    local value, numbers = read(tonumber(ARGV[FIXED + i * FIELDS + 1]))
    if not value and numbers then return numbers end
    reply[#reply + 1] = value and numbers[1] or 0
  end
  begin()
  return reply
end

-- The draft of a record, turned to a label; nil if the label fits neither the clock nor the record, and an
-- error besides if the record cannot be used.
local function draft(key, label, not_before, not_after)
  if now < not_before or now >= not_after then return nil end
  local d = drafts[key]
  if not d then
    local value, numbers = read(key)
    if not value and numbers then return nil, numbers end
    local l, u, r, pu, pr = unpack(numbers or {label, 0, 0, 0, 0})
    d = {found = value, expires = nil, l = {l, u, r, pu, pr}, c = {l, u, r, pu, pr}}
    drafts[key] = d
  end
  return turn(d.l, label) and turn(d.c, label) and d or nil
end

for i = 0, (#ARGV - FIXED) / FIELDS - 1 do
  local o = {}
  for f = 1, FIELDS do o[f] = tonumber(ARGV[FIXED + i * FIELDS + f]) end
  local key, action, cost, label = o[1], o[2], o[3], o[4]
  if action ~= PEEK then writes = true end

  local d, wrong = draft(key, label, o[5], o[6])
  if wrong then return wrong end
  if d then
    local a = at(d.l, label)
    for _, r in ipairs({d.l, d.c}) do
      if o[8] > r[a] then r[a] = o[8] end
      if o[9] > r[a + 1] then r[a + 1] = o[9] end
    end
    -- A record lives as long as its newest label asks; an operation on the label before changes nothing.
    if label == d.l[1] then d.expires = o[11] end

    local passes = true
    if action == CHARGE then
      passes = d.c[a] - d.c[a + 1] + cost <= o[7]
      if passes then d.c[a] = d.c[a] + cost end
    end
    if not passes and o[10] == 1 then admitted = false end
    replies[i + 1] = {key, label, passes}
  elseif action == HEAL then
    -- What nobody can ask for any more needs no healing.
    replies[i + 1] = {}
  else
    return relabel()
  end
end
begin()

for _, d in pairs(drafts) do
  if admitted then d.l = d.c end
end
if writes then
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

local reply = {admitted and 1 or 0, now, epoch}
for _, o in ipairs(replies) do
  local r, a = {0, 0}, 1
  if o[1] then
    r = drafts[o[1]].l
    a = at(r, o[2])
  end
  reply[#reply + 1] = o[3] and 1 or 0
  reply[#reply + 1] = r[a]
  reply[#reply + 1] = r[a + 1]
end
return reply
