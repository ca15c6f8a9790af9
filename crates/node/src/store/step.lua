-- One check: the translation of `step` in crates/core/src/store/step.rs, operation by operation.
-- What is true of the one must be true of the other; a differential test holds them together.
--
-- KEYS     the marker, then one record per distinct key, and of a command that is carried out once what is remembered
--          of it
-- ARGV     the server's history as the caller knows it, or an empty string; an epoch, or 0, and from when on
--          the caller says that its labels are whole; the configuration that its claims are made by, from when on
--          it may be adopted (0: not known), from when on it is agreed (0: not known), of which labels nothing is
--          opened since they began before, and one more (0: not known), until when it may be adopted so, and the newest
--          epoch that the caller has seen, or 0; for how many milliseconds the command is remembered (0: it has no
--          name, -1: it is not, and only not carried out where it was before), and if it has one, what it asks for, a number for
--          who asks again, whether a refusal is remembered (1 or 0), and how many numbers follow (0: its own answer is
--          remembered), of what is remembered in its place: as in the reply from whether it was admitted on; and
--          for each operation 12 numbers: index into KEYS, action (0: peek, 1: charge, 2: heal, 3: grant, 4: refund,
--          5: settle, 6: hold, 7: confirm)
--          and eight times the rule (0: fixed window, 1: sliding window, 2: sliding log, 3: bucket, 4: concurrency)
--          and 64 if it has terms of a hold, cost (of settling: what is kept),
--          label, not_before, not_after, ceiling, floor used, floor refunded, enforce (1 or 0), expires, and
--          how many numbers follow (0: none), of the terms: name, how long, how it lapses (0: given back, 1: undone);
--          then either of a rule: when the label starts, how long a window is, a floor
--          of what was used in the label before, of a bucket also capacity, unit, drain, tick, whether it shapes; or of a claim: base, the one by the configuration before and one more (0: not
--          known), allowance, label start; block (0: the label is
--          short), ceiling and its epoch; the epoch that is reopened (0: none), what it is taken to have used,
--          how many were granted something, of each region and amount, how many have told of themselves, of each
--          region, epoch, amount, ceiling; an epoch, how many were granted something in it, of each region and
--          amount, how many have told of themselves, of each region, epoch, amount, ceiling, how many are
--          granted something, of each region and amount
-- reply    {2, now, epoch, and for each operation: its record's newest label or 0}: relabel, nothing was done
--          {3, now, epoch, the number for who asks again, when it was carried out, admitted, and for each operation:
--          label, passes, used, refunded, and how many numbers follow (0 or 3), of a meter}: carried out before
--          {4, now, epoch}: something else was carried out under this name
--          {admitted (1 or 0), now, epoch, the configuration adopted, from when on, from when on agreed and one
--          more (0: not known), since when, and for each operation: passes (1 or 0), used, refunded, and how many
--          numbers follow (0: none), either of a meter, or of a fixed window that has no place for another hold: what
--          counts as used, how long to wait, how long until nothing counts; or of a holding: open (1 or 0), base, how many were granted something, of each
--          region and amount, how many have told of themselves, of each region, epoch, amount, ceiling}
--
-- All times are microseconds; all numbers stay below 2^53, where Lua's doubles count exactly.
-- A record is MessagePack: version 1, label, used, refunded, previous used, previous refunded; or version 2, the
-- same, and its account: base, the epoch that reopened it or 0, how many were granted something, of each region
-- and amount, how many have told of themselves, of each region, epoch, amount, ceiling; or version 3, the same
-- as 1, and its meter: the latest time, the rule, and of a bucket level and unit, of a log a list: how long before
-- the latest time, and how much, the oldest first; or versions 4 to 6, as 1 to 3, and a list of holds: of each when
-- it ends, its name, when it was made, its label, how much, how it lapses; those that end first at the front.
-- Instead of version 1, while counts are small and nothing was given back, it is a decimal number: label, four digits
-- of what was used, four of what was before. Redis keeps such a string in the place of a pointer to one.
-- What is remembered of a command is a list in MessagePack: version 1, what it asks for, how many operations it had, and
-- the reply from the number for who asks again on.
-- The marker is text: version 1, the server's history (master_replid), epoch, and once somebody has said it,
-- from when on labels are whole, and then the configuration adopted, if it is not the first, from when on, from
-- when on agreed or 0, and since when.
-- Every read comes before the first write, so that an error leaves nothing half done.

-- Where a name's answer begins, if one is told, and how many numbers come before the operations, and are of each.
local TOLD = 15
local FIXED, FIELDS = (ARGV[10] or '0') == '0' and 10 or 14 + tonumber(ARGV[14]), 12
local PEEK, CHARGE, HEAL, GRANT, REFUND, SETTLE, HOLD, CONFIRM = 0, 1, 2, 3, 4, 5, 6, 7
local SLIDING_WINDOW, SLIDING_LOG, BUCKET, CONCURRENCY = 1, 2, 3, 4
local GIVEN_BACK = 0
-- HOLDS_MAX in crates/core/src/store/hold.rs.
local HOLDS_MAX = 1000
local COUNT_MAX = 9007199254740991
-- StoreEpoch::APART.
local EPOCHS_APART = 11000000
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- The epoch. If the marker is missing or tells of another history than the caller, the server is asked;
-- if the marker does not tell of its history, the records may be incomplete, and a new epoch begins.
local marker = redis.pcall('GET', KEYS[1])
if type(marker) == 'table' then
  if not string.find(marker.err, '^WRONGTYPE') then return marker end
  marker = 'another type'
end
local history, epoch, opens
-- How far the region has come with configurations; nothing is agreed as long as nobody has told it anything.
local config, from, agreed, since = 0, 0, nil, 0
if marker then
  local rest
  history, epoch, opens, rest = string.match(marker, '^1 (%x+) (%d+) ?(%d*)(.*)$')
  if epoch and rest ~= '' then
    config, from, agreed, since = string.match(rest, '^ (%d+) (%d+) (%d+) (%d+)$')
    config, from, agreed, since = tonumber(config), tonumber(from), tonumber(agreed), tonumber(since)
    if agreed == 0 then agreed = nil end
  end
  if not epoch or not config then
    return redis.error_reply('TIDEGATE marker ' .. KEYS[1] .. ' is not one of ours: remove it')
  end
  epoch, opens = tonumber(epoch), tonumber(opens)
  -- By the first, all labels are split from the beginning.
  if opens and config == 0 then agreed = 0 end
end
local begun = false
if history ~= ARGV[1] then
  local truth = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  if not truth then return redis.error_reply('TIDEGATE INFO replication has no master_replid') end
  if history ~= truth then
    -- A server that was wiped does not know how far its epochs had come: they may be ahead of the clock.
    epoch = math.max(math.max(epoch or 0, tonumber(ARGV[9])) + EPOCHS_APART, now)
    history, opens, begun = truth, nil, true
    config, from, agreed, since = 0, 0, nil, 0
  end
end
-- The first word of when the labels of the epoch are whole counts, and with it what it says of configurations;
-- later another one is adopted when the one before that is known to have been agreed.
local claimed, adopt, agree = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local known = ARGV[7] ~= '0' and tonumber(ARGV[7]) - 1 or nil
if now >= tonumber(ARGV[8]) then adopt = 0 end
if not opens then
  if tonumber(ARGV[2]) == epoch and (claimed == 0 or (adopt > 0 and known)) then
    opens, agreed, begun = tonumber(ARGV[3]), 0, true
    if claimed > 0 then
      config, from, agreed, since = claimed, adopt, agree > 0 and agree or nil, known
    end
  end
elseif claimed == config then
  if not agreed and agree > 0 then agreed, begun = agree, true end
elseif claimed > config and adopt > 0 then
  known = claimed == config + 1 and agreed or known
  if known then config, from, agreed, since, begun = claimed, adopt, nil, known, true end
end

-- Writes the marker if something new was said, when nothing can fail any more.
local function begin()
  if not begun then return end
  local text = string.format('1 %s %.0f', history, epoch)
  if opens then text = text .. string.format(' %.0f', opens) end
  if config > 0 then
    text = text .. string.format(' %.0f %.0f %.0f %.0f', config, from, agreed or 0, since)
  end
  redis.call('SET', KEYS[1], text)
end

local drafts = {}
local replies = {}
local admitted = true
local writes = false

-- A draft holds two outcomes: `l` lifted to the floors, `c` also charged.
-- Each is {label, used, refunded, previous used, previous refunded}. Beside them stands its account, if there is
-- one: base, reopened, given by region, received by region as {epoch, amount, ceiling}.

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

-- The account at the end of a record of version 2.
local function account_of(n)
  local a = {base = n[7], given = {}, received = {}}
  if n[8] > 0 then a.reopened = n[8] end
  local i = 10
  for _ = 1, n[9] do
    a.given[n[i]] = n[i + 1]
    i = i + 2
  end
  for _ = 1, n[i] do
    a.received[n[i + 1]] = {n[i + 2], n[i + 3], n[i + 4]}
    i = i + 4
  end
  return a
end

-- The meter at the end of a record of version 3.
local function meter_of(n)
  local m = {at = n[7]}
  if n[8] == BUCKET then
    m.units, m.unit = n[9], n[10]
  elseif n[8] == SLIDING_LOG then
    m.log = {}
    for i = 1, #n[9], 2 do m.log[#m.log + 1] = {n[7] - n[9][i], n[9][i + 1]} end
  end
  return m
end

-- A key as text: of records it has bytes of all kinds.
local function shown(key)
  return (string.gsub(KEYS[key], '[^%w%p]', function(c) return string.format('\\x%02x', string.byte(c)) end))
end

-- The holds at the end of a record of version 4 to 6.
local function holds_of(list)
  local holds = {}
  for i = 1, #list, 6 do
    local hold = {}
    for f = 0, 5 do
      if type(list[i + f]) ~= 'number' then error('no number') end
      hold[f + 1] = list[i + f]
    end
    holds[#holds + 1] = hold
  end
  return holds
end

-- The five numbers of a record, its account, its meter and its holds; nothing if there is none, and an error besides
-- if it is not one of ours.
local function read(key)
  local value = redis.call('GET', KEYS[key])
  if not value then return nil end
  local label, now_used, used_before = string.match(value, '^(%d+)(%d%d%d%d)(%d%d%d%d)$')
  if label then return value, {tonumber(label), tonumber(now_used), 0, tonumber(used_before), 0} end
  local n = {pcall(cmsgpack.unpack, value)}
  local fine = table.remove(n, 1)
  local version, holds = n[1], nil
  if fine and (version == 4 or version == 5 or version == 6) then
    local list = table.remove(n)
    fine = type(list) == 'table'
    if fine then fine, holds = pcall(holds_of, list) end
    if fine then version = version - 3 end
  end
  if fine and (version == 1 or version == 2 or version == 3) then
    local list = version == 3 and n[8] == SLIDING_LOG and type(n[9]) == 'table' and n[9] or nil
    fine = #n == 6 or (version == 2 and #n >= 10) or (version == 3 and #n >= 8)
    for i = 1, #n do fine = fine and (type(n[i]) == 'number' or (i == 9 and list ~= nil)) end
    local read, account, meter = true, nil, nil
    if fine and version == 2 then read, account = pcall(account_of, n) end
    if fine and version == 3 then read, meter = pcall(meter_of, n) end
    if fine and read then return value, {n[2], n[3], n[4], n[5], n[6]}, account, meter, holds end
  end
  local what = fine and 'version ' .. tostring(version) or 'no version'
  return nil, redis.error_reply('TIDEGATE record ' .. shown(key) .. ' has ' .. what)
end

local function sorted(by_region)
  local regions = {}
  for region in pairs(by_region) do regions[#regions + 1] = region end
  table.sort(regions)
  return regions
end

-- The digits of a record, if it has no more than they say.
local function digits(r)
  if r[3] > 0 or r[5] > 0 or r[2] > 9999 or r[4] > 9999 or r[1] < 1 or r[1] > 9999999999 then return nil end
  return string.format('%.0f%04d%04d', r[1], r[2], r[4])
end

-- The bytes of a record without holds; `more` if some will follow.
local function packed(r, a, m, more)
  if m then
    if m.units then return cmsgpack.pack(3, r[1], r[2], r[3], r[4], r[5], m.at, BUCKET, m.units, m.unit) end
    if not m.log then return cmsgpack.pack(3, r[1], r[2], r[3], r[4], r[5], m.at, SLIDING_WINDOW) end
    local list = {}
    for _, entry in ipairs(m.log) do
      list[#list + 1] = m.at - entry[1]
      list[#list + 1] = entry[2]
    end
    return cmsgpack.pack(3, r[1], r[2], r[3], r[4], r[5], m.at, SLIDING_LOG, list)
  end
  if not a then return not more and digits(r) or cmsgpack.pack(1, r[1], r[2], r[3], r[4], r[5]) end
  local n = {2, r[1], r[2], r[3], r[4], r[5], a.base, a.reopened or 0}
  local given, received = sorted(a.given), sorted(a.received)
  n[#n + 1] = #given
  for _, region in ipairs(given) do
    n[#n + 1] = region
    n[#n + 1] = a.given[region]
  end
  n[#n + 1] = #received
  for _, region in ipairs(received) do
    n[#n + 1] = region
    for i = 1, 3 do n[#n + 1] = a.received[region][i] end
  end
  return cmsgpack.pack(unpack(n))
end

-- The same of one with holds: another version, and the holds behind the rest. A version is one byte.
local function packed_with(r, a, m, holds)
  local value = packed(r, a, m, #holds > 0)
  if #holds == 0 then return value end
  local list = {}
  for _, hold in ipairs(holds) do
    for f = 1, 6 do list[#list + 1] = hold[f] end
  end
  return string.char(string.byte(value) + 3) .. string.sub(value, 2) .. cmsgpack.pack(list)
end

-- Rights; made for commands that have claims.
local spend
local function make_rights()
  if spend then return end
  -- Base and received, less what is given.
  local function held(a)
    local sum, given = a.base, 0
    for _, told in pairs(a.received) do sum = math.min(sum + told[2], COUNT_MAX) end
    for _, amount in pairs(a.given) do given = math.min(given + amount, COUNT_MAX) end
    return math.max(sum - given, 0)
  end

  -- What others tell of themselves: of one epoch the larger numbers, of an older one nothing.
  local function receive(a, region, told_epoch, amount, ceiling)
    local known = a.received[region]
    if not known then
      a.received[region] = {told_epoch, amount, ceiling}
    elseif told_epoch >= known[1] then
      a.received[region] = {told_epoch, math.max(known[2], amount), math.max(known[3], ceiling)}
    end
  end

  -- Carries out an operation on a limit under rights; `c` is where its claim begins. Returns whether it passes,
  -- and the holding.
  function spend(d, o, c, has_place)
    if o[4] ~= d.c[1] then return o[2] == PEEK, {0, 0, 0, 0} end
    local function n(i) return tonumber(ARGV[c + i]) end
    local base, before, allowance, label_start = n(0), n(1) > 0 and n(1) - 1 or nil, n(2), n(3)
    local block, ceiling, at = n(4), n(6) == epoch and n(5) or 0, 10
    local whole = opens and label_start >= opens
    local is_agreed = agreed and label_start >= agreed
    local serves = claimed == config or (claimed + 1 == config and label_start < from and not is_agreed)
    local least = is_agreed and base or (before and math.min(base, before))
    if label_start < since then allowance = 0 end
    if not d.account then
      local begins = least
      if claimed ~= config then begins = base elseif not is_agreed and label_start < from then begins = before end
      if not serves or label_start < since or not begins then
        return o[2] == PEEK, {whole and 1 or 0, 0, 0, 0}
      end
      d.account = {base = begins, given = {}, received = {}}
    end
    local a = d.account
    -- What a store that has forgotten the label may go on with; by whom it knows its least base.
    local knows = claimed == config and opens and (is_agreed or label_start >= since)
    local reopens = knows and n(7) == epoch and a.reopened ~= epoch and not whole and least
    if reopens then
      a.given, a.reopened, a.base = {}, epoch, math.min(a.base, least)
      for _, which in ipairs({'l', 'c'}) do
        local r, held = d[which], 0
        for _, hold in ipairs(d.h[which]) do
          if hold[4] == r[1] and hold[6] ~= GIVEN_BACK then held = held + hold[5] end
        end
        r[2] = math.max(r[2], math.min(r[3] + n(8) + held, COUNT_MAX))
      end
    end
    for _ = 1, n(at - 1) do
      if reopens and n(at + 1) > 0 then a.given[n(at)] = math.max(a.given[n(at)] or 0, n(at + 1)) end
      at = at + 2
    end
    at = at + 1
    for _ = 1, n(at - 1) do
      if reopens then receive(a, n(at), n(at + 1), n(at + 2), n(at + 3)) end
      at = at + 4
    end
    local net, seen = d.c[2] - d.c[3], n(at)
    at = at + 2
    for _ = 1, n(at - 1) do
      if seen == epoch and n(at + 1) > 0 then
        a.given[n(at)] = math.max(a.given[n(at)] or 0, n(at + 1))
      end
      at = at + 2
    end
    at = at + 1
    for _ = 1, n(at - 1) do
      receive(a, n(at), n(at + 1), n(at + 2), n(at + 3))
      at = at + 4
    end
    local open = whole or a.reopened == epoch
    local passes = true
    if o[2] == CHARGE then
      if net + o[3] > o[7] then allowance = 0 end
      passes = has_place and open and serves and net + o[3] <= held(a) + allowance
      if block > 0 and net + o[3] > ceiling + block then passes = false end
    elseif o[2] == REFUND then
      d.c[3] = d.c[3] + math.min(o[3], math.max(net, 0))
    elseif o[2] == GRANT and open and serves then
      for _ = 1, n(at) do
        local to, amount = n(at + 1), math.min(n(at + 2), math.max(held(a) - net, 0))
        if amount > 0 then a.given[to] = (a.given[to] or 0) + amount end
        at = at + 2
      end
    end
    local given, received = sorted(a.given), sorted(a.received)
    local holding = {open and 1 or 0, a.base, #given}
    for _, region in ipairs(given) do
      holding[#holding + 1] = region
      holding[#holding + 1] = a.given[region]
    end
    holding[#holding + 1] = #received
    for _, region in ipairs(received) do
      holding[#holding + 1] = region
      for i = 1, 3 do holding[#holding + 1] = a.received[region][i] end
    end
    if passes and o[2] == CHARGE then d.c[2] = d.c[2] + o[3] end
    return passes, holding
  end
end

-- Meters: the translation of crates/core/src/algorithm, file by file. `p` is a rule's numbers. Functions are made
-- anew in each call, so these are made for commands that need them.
local meter, lift, refund, used, reset, measure
local function make_meters()
  if measure then return end
  -- Sliding window: what of `previous` counts while so much of a window is left.
  local function part(previous, left, length)
    local tick = math.ceil(length / 1048576)
    local all = math.floor(length / tick)
    left = math.min(math.ceil(left / tick), all)
    return math.floor(previous / all) * left + math.ceil((previous % all) * left / all)
  end

  local function left_of(p, time)
    return math.min(math.max(p.starts + p.length - time, 0), p.length)
  end

  -- The most that may be left of a window, of at most `most`, for `previous` to count no more than `room`.
  local function until_left(previous, room, most, length)
    if part(previous, most, length) <= room then return most end
    local tick = math.ceil(length / 1048576)
    local low, high = 0, math.ceil(most / tick)
    while high - low > 1 do
      local middle = low + math.floor((high - low) / 2)
      if part(previous, middle * tick, length) <= room then low = middle else high = middle end
    end
    return low * tick
  end

  -- Bucket: what is left of a level after a time.
  local function drained(units, p, before, time)
    local ticks = math.max(math.floor(time / p.tick) - math.floor(before / p.tick), 0)
    if ticks >= math.ceil(units / p.drain) then return 0 end
    return units - ticks * p.drain
  end

  -- From a time until so many ticks have begun.
  local function after(ticks, p, time)
    if ticks == 0 then return 0 end
    return math.max(ticks * p.tick - time % p.tick, 0)
  end

  -- Log.
  local function forget(log, time, length)
    local old = 0
    while log[old + 1] and log[old + 1][1] + length <= time do old = old + 1 end
    if old == 0 then return log end
    local left = {}
    for i = old + 1, #log do left[#left + 1] = log[i] end
    return left
  end

  local function add(log, time, cost)
    local place = #log + 1
    while place > 1 and log[place - 1][1] >= time do place = place - 1 end
    if log[place] and log[place][1] == time then
      log[place][2] = log[place][2] + cost
    else
      table.insert(log, place, {time, cost})
    end
  end

  local function sum(log)
    local all = 0
    for _, entry in ipairs(log) do all = all + entry[2] end
    return all
  end

  local function copy(m)
    if not m then return nil end
    local log = m.log and {} or nil
    for i, entry in ipairs(m.log or {}) do log[i] = {entry[1], entry[2]} end
    return {at = m.at, units = m.units, unit = m.unit, log = log}
  end

  -- One of a draft's meters as it is now: that of outcome `l` or `c`. Sliding windows need none.
  function meter(d, which, rule, p)
    if rule == SLIDING_WINDOW then return {at = now} end
    local m = d.meters[which] or copy(d.stored)
    if not m then
      m = {at = now}
      if rule == BUCKET then m.units, m.unit = 0, p.unit end
      if rule == SLIDING_LOG then m.log = {} end
    end
    d.meters[which] = m
    local before = m.at
    m.at = math.max(m.at, now)
    if rule == SLIDING_LOG then
      m.log = forget(m.log, m.at, p.length)
    elseif rule == BUCKET then
      if m.unit ~= p.unit then m.units, m.unit = math.ceil(m.units * p.unit / m.unit), p.unit end
      m.units = drained(math.min(m.units, COUNT_MAX), p, before, m.at)
    end
    return m
  end

  -- Use until some instant; as long ago by the meter's time, which may be ahead.
  function lift(m, rule, p, amount, used_by)
    used_by = m.at - math.max(now - used_by, 0)
    if rule == SLIDING_LOG then
      add(m.log, used_by, amount)
      m.log = forget(m.log, m.at, p.length)
    elseif rule == BUCKET then
      local more = drained(math.min(amount, p.capacity) * p.unit, p, used_by, m.at)
      m.units = m.units + math.min(more, math.max(p.capacity * p.unit - m.units, 0))
    end
  end

  -- Gives back what was used since some instant.
  function refund(m, rule, p, amount, since)
    if rule == BUCKET then
      since = m.at - math.max(now - since, 0)
      m.units = math.max(m.units - drained(math.min(amount, p.capacity) * p.unit, p, since, m.at), 0)
    elseif rule == SLIDING_LOG then
      local left = {}
      for _, entry in ipairs(m.log) do
        local less = math.min(amount, entry[2])
        amount = amount - less
        if entry[2] > less then left[#left + 1] = {entry[1], entry[2] - less} end
      end
      m.log = left
    end
  end

  -- `r` are the counts, `m` the meter.
  function used(r, m, rule, p)
    if rule == SLIDING_LOG then return sum(m.log) end
    if rule == BUCKET then return math.ceil(m.units / p.unit) end
    return r[2] - r[3] + part(r[4] - r[5], left_of(p, m.at), p.length)
  end

  local function has_room(r, m, rule, p, cost, ceiling)
    if rule == BUCKET then
      return cost <= p.capacity and cost * p.unit <= math.max(p.capacity * p.unit - m.units, 0)
    end
    return used(r, m, rule, p) + cost <= ceiling
  end

  local function waits(r, m, rule, p, cost, ceiling)
    if rule == SLIDING_LOG then
      local over = math.max(sum(m.log) + cost - ceiling, 0)
      if over == 0 then return 0 end
      for _, entry in ipairs(m.log) do
        over = math.max(over - entry[2], 0)
        if over == 0 then return math.max(entry[1] + p.length - m.at, 0) end
      end
      return 0
    end
    if rule == BUCKET then
      local room = p.capacity * p.unit - math.min(cost, p.capacity) * p.unit
      return after(math.ceil(math.max(m.units - room, 0) / p.drain), p, m.at)
    end
    local current, rest = r[2] - r[3], left_of(p, m.at)
    if current + cost <= ceiling then
      return rest - until_left(r[4] - r[5], ceiling - current - cost, rest, p.length)
    end
    local room = math.max(ceiling - cost, 0)
    return rest + p.length - until_left(current, room, p.length, p.length)
  end

  local function resets(r, m, rule, p)
    if rule == SLIDING_LOG then
      local last = m.log[#m.log]
      return last and math.max(last[1] + p.length - m.at, 0) or 0
    end
    if rule == BUCKET then return after(math.ceil(m.units / p.drain), p, m.at) end
    local rest = left_of(p, m.at)
    if r[2] - r[3] > 0 then return rest + p.length end
    return r[4] - r[5] > 0 and rest or 0
  end

  -- A time from the meter's latest on, which the clock has to reach first.
  local function ahead(span, m)
    return span == 0 and 0 or span + m.at - now
  end

  function reset(r, m, rule, p)
    return ahead(resets(r, m, rule, p), m)
  end

  -- Carries out an operation on a limit whose counts do not decide alone. `place_wait` is for a place to hold it by.
  -- Returns whether it passes, and after which it would.
  function measure(d, o, action, rule, p, a, has_place, place_wait)
    local m, r, cost = meter(d, 'c', rule, p), d.c, o[3]
    local passes, wait = action ~= GRANT, 0
    if action == CHARGE then
      passes = has_place and has_room(r, m, rule, p, cost, o[7])
      if passes then
        if rule == BUCKET and p.shapes == 1 then wait = reset(r, m, rule, p) end
        if rule == SLIDING_LOG then add(m.log, m.at, cost) end
        if rule == BUCKET then m.units = m.units + cost * p.unit end
        r[a], d.moved = r[a] + cost, true
      else
        wait = math.max(ahead(waits(r, m, rule, p, cost, o[7]), m), place_wait)
      end
    elseif action == REFUND then
      local given = math.min(cost, math.max(r[a] - r[a + 1], 0))
      r[a + 1] = r[a + 1] + given
      d.moved = d.moved or given > 0
      if given > 0 then refund(m, rule, p, given, p.starts) end
    end
    -- A level is to be remembered until it has drained.
    if rule == BUCKET then d.expires = math.max(d.expires or 0, o[11], now + reset(r, m, rule, p)) end
    return passes, wait
  end
end

-- Holds: the translation of crates/core/src/store/hold.rs, and of what a record does by them. Each is {when it ends,
-- name, when it was made, label, amount, how it lapses}; `d.h` has those of both outcomes.

local function sum_of(holds)
  local all = 0
  for _, hold in ipairs(holds) do all = all + hold[5] end
  return all
end

-- After which so many have ended that a cost has room, and that there is room for one more.
local function waits_for(holds, cost, ceiling)
  local over, too_many = math.max(sum_of(holds) + cost - ceiling, 0), math.max(#holds + 1 - HOLDS_MAX, 0)
  for _, hold in ipairs(holds) do
    over, too_many = math.max(over - hold[5], 0), math.max(too_many - 1, 0)
    if over == 0 and too_many == 0 then return math.max(hold[1] - now, 0) end
  end
  return 0
end

-- Whether one hold comes before another.
local function is_before(one, other)
  for f = 1, 6 do
    if one[f] ~= other[f] then return one[f] < other[f] end
  end
  return false
end

-- Adds a hold where it belongs.
local function add_hold(holds, hold)
  local place = #holds + 1
  while place > 1 and not is_before(holds[place - 1], hold) do place = place - 1 end
  table.insert(holds, place, hold)
end

-- Holds an amount by an operation's terms, if there is room for it.
local function hold_by(d, o, terms, amount)
  if #d.h.c >= HOLDS_MAX then return false end
  local hold = {now + terms[2], terms[1], now, o[4], amount, terms[3]}
  add_hold(d.h.c, hold)
  d.expires = math.max(d.expires, hold[1])
  return true
end

-- Gives back of a hold in outcome `which`, where its label is still known. Returns how much.
local function give_back(d, which, hold, amount, rule, p)
  local r = d[which]
  if hold[4] > r[1] or hold[4] + 1 < r[1] then return 0 end
  local a = at(r, hold[4])
  amount = math.min(amount, math.max(r[a] - r[a + 1], 0))
  if hold[6] == GIVEN_BACK then r[a + 1] = r[a + 1] + amount else r[a] = r[a] - amount end
  if amount > 0 and rule > 0 then refund(meter(d, which, rule, p), rule, p, amount, hold[3]) end
  return amount
end

-- Ends the holds whose time is over. What was reserved before this epoch began stays charged: the store may have
-- forgotten that it was settled.
local function lapse(d, which, rule, p)
  local holds, over = d.h[which], 0
  while holds[over + 1] and holds[over + 1][1] <= now do over = over + 1 end
  if over == 0 then return end
  local left = {}
  for i = over + 1, #holds do left[#left + 1] = holds[i] end
  d.h[which], d.moved = left, true
  -- A log gives back what was used first, whoever it was: all at once.
  local of_log = 0
  for i = 1, over do
    local hold = holds[i]
    if hold[6] ~= GIVEN_BACK or hold[3] >= epoch then
      of_log = of_log + give_back(d, which, hold, hold[5], rule == SLIDING_LOG and 0 or rule, p)
    end
  end
  if rule == SLIDING_LOG and of_log > 0 then refund(meter(d, which, rule, p), rule, p, of_log, 0) end
end

-- Ends the hold that terms name, and keeps so much of it charged. Returns whether there is one.
local function settle(d, terms, keep, rule, p)
  for i, hold in ipairs(d.h.c) do
    if hold[2] == terms[1] and (terms[3] == GIVEN_BACK or hold[6] ~= GIVEN_BACK) then
      table.remove(d.h.c, i)
      give_back(d, 'c', hold, math.max(hold[5] - keep, 0), rule, p)
      d.moved = true
      return true
    end
  end
  return false
end

-- Keeps what is held: it ends, or goes on under other terms. Returns whether it was. Its record may have to live longer,
-- and never lives shorter.
local function confirm(d, terms, key)
  for i, hold in ipairs(d.h.c) do
    if hold[2] == terms[1] and hold[6] ~= GIVEN_BACK then
      table.remove(d.h.c, i)
      if terms[3] == GIVEN_BACK then
        local kept = {now + terms[2], hold[2], hold[3], hold[4], hold[5], GIVEN_BACK}
        add_hold(d.h.c, kept)
        if not d.expires then d.expires = now + math.max(redis.call('PTTL', KEYS[key]), 0) * 1000 end
        d.expires = math.max(d.expires, kept[1])
      end
      d.moved = true
      return true
    end
  end
  return false
end

-- Where each operation's numbers begin in ARGV.
local starts = {}
do
  local at = FIXED
  while at < #ARGV do
    starts[#starts + 1] = at
    at = at + FIELDS + tonumber(ARGV[at + FIELDS])
  end
end

-- The answer to labels that do not fit: it says how far the records are.
local function relabel()
  local reply = {2, now, epoch}
  for _, start in ipairs(starts) do
    local value, numbers = read(tonumber(ARGV[start + 1]))
    if not value and numbers then return numbers end
    reply[#reply + 1] = value and numbers[1] or 0
  end
  begin()
  return reply
end

-- The draft of a record, turned to a label; nil if the label fits neither the clock nor the record, and an
-- error besides if the record cannot be used.
local function draft(key, label, not_before, not_after, rule, settles)
  if not settles and (now < not_before or now >= not_after) then return nil end
  local d = drafts[key]
  if not d then
    local value, numbers, account, stored, holds = read(key)
    if not value and numbers then return nil, numbers end
    local l, u, r, pu, pr = unpack(numbers or {label, 0, 0, 0, 0})
    d = {found = value, expires = nil, l = {l, u, r, pu, pr}, c = {l, u, r, pu, pr}, account = account}
    d.stored, d.moved = stored, false
    d.h = {l = holds or {}, c = {}}
    for i, hold in ipairs(d.h.l) do d.h.c[i] = hold end
    if stored or rule > 0 then d.meters = {} end
    drafts[key] = d
  end
  if settles then return d end
  -- An account ends with its label.
  if label > d.c[1] then d.account = nil end
  return turn(d.l, label) and turn(d.c, label) and d or nil
end

-- A floor and what is held of its label and in no floor, since it may be undone.
local function with_uncounted(used, holds, label)
  if used == 0 then return 0 end
  for _, hold in ipairs(holds) do
    if hold[4] == label and hold[6] ~= GIVEN_BACK then used = used + hold[5] end
  end
  return math.min(used, COUNT_MAX)
end

-- Lifts an outcome's counts to the floors. What they did not know its meter takes as used at the last possible
-- instant.
local function raise(r, a, o, d, which, rule, p)
  local holds = d.h[which]
  if rule > 0 and a == 2 and p.before > 0 then
    local before = math.max(r[4] - r[5], 0)
    r[4] = math.max(r[4], with_uncounted(p.before, holds, o[4] - 1))
    local more = math.max(r[4] - r[5], 0) - before
    if more > 0 then
      lift(meter(d, which, rule, p), rule, p, more, math.min(p.starts, now))
      d.moved = true
    end
  end
  local before = r[a] - r[a + 1]
  local floor = #holds > 0 and with_uncounted(o[8], holds, o[4]) or o[8]
  if floor > r[a] then r[a] = floor end
  if o[9] > r[a + 1] then r[a + 1] = o[9] end
  if rule > 0 then
    local more = math.max(r[a] - r[a + 1], 0) - math.max(before, 0)
    if more > 0 then
      local used_by = a == 2 and now or math.min(p.starts + p.length, now)
      lift(meter(d, which, rule, p), rule, p, more, used_by)
      d.moved = true
    end
  end
end

-- A command that was carried out before is answered as then.
local once = FIXED > 10
if once then
  local value = redis.call('GET', KEYS[#KEYS])
  if value then
    local fine, n = pcall(cmsgpack.unpack, value)
    if not fine or type(n) ~= 'table' or n[1] ~= 1 then
      return redis.error_reply('TIDEGATE record ' .. KEYS[#KEYS] .. ' is no answer of ours')
    end
    begin()
    if n[2] ~= tonumber(ARGV[11]) then return {4, now, epoch} end
    local reply = {3, now, epoch}
    for i = 4, #n do reply[#reply + 1] = n[i] end
    return reply
  end
end

for i, start in ipairs(starts) do
  local o = {}
  for f = 1, FIELDS do o[f] = tonumber(ARGV[start + f]) end
  local key, action, cost, label = o[1], o[2] % 8, o[3], o[4]
  local rule, p, terms, more = 0, nil, nil, start + FIELDS
  if o[2] >= 64 then
    terms = {tonumber(ARGV[more + 1]), tonumber(ARGV[more + 2]), tonumber(ARGV[more + 3])}
    o[2], o[12], more = o[2] % 64, o[12] - 3, more + 3
  end
  local places = o[2] >= CONCURRENCY * 8
  if o[2] >= 8 and not places then
    make_meters()
    rule = math.floor(o[2] / 8)
    local function n(f) return tonumber(ARGV[more + f]) end
    p = {starts = n(1), length = n(2), before = n(3)}
    p.capacity, p.unit, p.drain, p.tick, p.shapes = n(4), n(5), n(6), n(7), n(8)
  end
  if action ~= PEEK then writes = true end

  local d, wrong = draft(key, label, o[5], o[6], rule, action == SETTLE or action == CONFIRM)
  if wrong then return wrong end
  -- What weighs on the label before the newest is not known any more, and what is held is held in the newest.
  local newest_only = rule == SLIDING_WINDOW and (action == CHARGE or action == PEEK)
  if terms and (action == CHARGE or action == HOLD) then newest_only = true end
  if d and newest_only and label ~= d.c[1] then d = nil end
  if d then
    if #d.h.l > 0 then lapse(d, 'l', rule, p) end
    if #d.h.c > 0 then lapse(d, 'c', rule, p) end
    local a = at(d.l, label)
    raise(d.l, a, o, d, 'l', rule, p)
    raise(d.c, a, o, d, 'c', rule, p)
    -- A record lives as long as its newest label asks, or what is held of it; an operation on the label before changes
    -- nothing.
    if label == d.l[1] and action ~= SETTLE and action ~= CONFIRM then
      local last = d.h.c[#d.h.c]
      d.expires = last and math.max(o[11], last[1]) or o[11]
    end

    local passes, holding, measured = true, nil, nil
    local has_place, place_wait = not (terms and action == CHARGE and #d.h.c >= HOLDS_MAX), 0
    if not has_place then place_wait = waits_for(d.h.c, 0, COUNT_MAX) end
    if action == SETTLE then
      passes = terms ~= nil and settle(d, terms, cost, rule, p)
    elseif action == CONFIRM then
      passes = terms ~= nil and confirm(d, terms, o[1])
    elseif action == HOLD then
      passes = false
      for _, hold in ipairs(d.h.c) do passes = passes or (terms ~= nil and hold[2] == terms[1]) end
      passes = passes or (terms ~= nil and hold_by(d, o, terms, cost))
      d.moved = d.moved or passes
    elseif places then
      passes = action == PEEK or action == HEAL
      local waits = 0
      if action == CHARGE then
        passes = terms ~= nil and has_place and sum_of(d.h.c) + cost <= o[7]
        if not passes then waits = waits_for(d.h.c, cost, o[7]) end
      end
      measured = {waits}
    elseif rule > 0 then
      local waits
      passes, waits = measure(d, o, action, rule, p, a, has_place, place_wait)
      measured = {waits, rule, p}
    elseif action == HEAL or (action == PEEK and o[12] == 0) then
      passes = true
    elseif o[12] > 0 then
      make_rights()
      passes, holding = spend(d, o, more + 1, has_place)
    elseif action == CHARGE then
      passes = has_place and d.c[a] - d.c[a + 1] + cost <= o[7]
      if passes then d.c[a] = d.c[a] + cost end
      if not has_place then measured = {place_wait, false} end
    elseif action == REFUND then
      passes = true
      d.c[a + 1] = d.c[a + 1] + math.min(cost, math.max(d.c[a] - d.c[a + 1], 0))
    else
      passes = false
    end
    if passes and action == CHARGE and terms then hold_by(d, o, terms, cost) end
    if not passes and o[10] == 1 then admitted = false end
    replies[i] = {key, label, passes, holding, measured}
  elseif action == HEAL or action == REFUND or action == HOLD then
    -- What nobody can ask for any more needs no healing.
    replies[i] = {}
  else
    return relabel()
  end
end
begin()

for _, d in pairs(drafts) do
  -- Time alone is not worth a write.
  if admitted and d.moved and d.meters then d.meters.l = d.meters.c end
  if admitted then d.l, d.h.l = d.c, d.h.c end
end
if writes then
  for key, d in pairs(drafts) do
    local r = d.l
    local value, account = packed_with(r, d.account, d.meters and d.meters.l or d.stored, d.h.l), d.account
    local empty = r[2] == 0 and r[3] == 0 and r[4] == 0 and r[5] == 0 and #d.h.l == 0
    if account then
      empty = empty and not (next(account.given) or next(account.received) or account.reopened)
    end
    if value ~= d.found and (d.found or not empty) then
      if d.expires then
        redis.call('SET', KEYS[key], value, 'PXAT', math.ceil(d.expires / 1000))
      else
        redis.call('SET', KEYS[key], value, 'KEEPTTL')
      end
    end
  end
end

local reply = {admitted and 1 or 0, now, epoch, config, from, agreed and agreed + 1 or 0, since}
for _, o in ipairs(replies) do
  local r, a = {0, 0}, 1
  if o[1] then
    r = drafts[o[1]].l
    a = at(r, o[2])
  end
  reply[#reply + 1] = o[3] and 1 or 0
  reply[#reply + 1] = r[a]
  reply[#reply + 1] = r[a + 1]
  if o[5] then
    local waits, rule, p = unpack(o[5])
    if rule then
      local m = meter(drafts[o[1]], 'l', rule, p)
      o[4] = {used(r, m, rule, p), waits, reset(r, m, rule, p)}
    elseif rule == false then
      o[4] = {math.max(r[a] - r[a + 1], 0), waits, 0}
    else
      local holds = drafts[o[1]].h.l
      local last = holds[#holds]
      o[4] = {sum_of(holds), waits, last and math.max(last[1] - now, 0) or 0}
    end
  end
  reply[#reply + 1] = o[4] and #o[4] or 0
  for _, number in ipairs(o[4] or {}) do reply[#reply + 1] = number end
end
if once and ARGV[10] ~= '-1' and (admitted or ARGV[13] == '1') then
  local n = {1, tonumber(ARGV[11]), #starts, tonumber(ARGV[12]), now}
  for i = TOLD, FIXED do n[#n + 1] = tonumber(ARGV[i]) end
  local from = 8
  if FIXED < TOLD then n[#n + 1] = reply[1] end
  for i, start in ipairs(FIXED < TOLD and starts or {}) do
    local o = replies[i]
    n[#n + 1] = tonumber(ARGV[start + 4])
    for f = from, from + 2 do n[#n + 1] = reply[f] end
    -- How an account stood is not remembered.
    local count, kept = reply[from + 3], o[5] and 3 or 0
    n[#n + 1] = kept
    for f = 1, kept do n[#n + 1] = reply[from + 3 + f] end
    from = from + 4 + count
  end
  redis.call('SET', KEYS[#KEYS], cmsgpack.pack(n), 'PX', ARGV[10])
end
return reply
