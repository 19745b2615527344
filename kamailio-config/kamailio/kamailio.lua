-- The routing of kamailio.cfg in Lua (KEMI). IM_SERVER is where the IM server takes SIP.

function ksr_request_route()
    if KSR.maxfwd.process_maxfwd(10) < 0 then
        KSR.sl.sl_send_reply(483, "Too Many Hops")
        return 1
    end
    local method = KSR.pv.get("$rm")
    if method == "OPTIONS" then
        KSR.sl.sl_send_reply(200, "OK")
        return 1
    end
    if method == "CANCEL" then
        if KSR.tm.t_check_trans() > 0 then KSR.tm.t_relay() end
        return 1
    end
    -- Requests within the dialog: replies, BYE and CANCEL are seen by the module itself.
    if KSR.siputils.has_totag() > 0 then
        if KSR.rr.loose_route() < 0 and method ~= "ACK" then
            KSR.sl.sl_send_reply(404, "Not here")
            return 1
        end
        KSR.tm.t_relay()
        return 1
    end
    if method ~= "INVITE" then
        KSR.sl.sl_send_reply(405, "Method Not Allowed")
        return 1
    end
    KSR.rr.record_route()
    -- Credit for the stored messages; 0: the INVITE is suspended, and goes on in ksr_charged. Where the script knows how
    -- many messages there are, reserve_messages("ksr_charged", number) says so.
    local result = KSR.imcharge.reserve("ksr_charged")
    if result == 0 then
        KSR.x.exit()
    end
    -- The client's a=path leaves this relay out, and bypass is "refuse".
    if result == -6 then
        KSR.sl.sl_send_reply(488, "Not Acceptable Here")
    else
        KSR.sl.sl_send_reply(503, "Charging unavailable")
    end
    return 1
end

-- The enabler has answered; runs in a resume worker.
function ksr_charged()
    local result = KSR.pv.get("$imcharge(result)")
    if result == "granted" then
        KSR.pv.sets("$du", (string.gsub(KSR.pv.gete("$def(IM_SERVER)"), '"', "")))
        KSR.tm.t_relay()
        return 1
    end
    KSR.info(KSR.pv.gete("$ci") .. " refused: " .. KSR.pv.gete("$imcharge(reason)") .. " " ..
        KSR.pv.gete("$imcharge(code)") .. "\n")
    if result == "denied" then
        KSR.tm.t_reply(402, "Payment Required")
    elseif KSR.pv.get("$imcharge(reason)") == "merged" then
        KSR.tm.t_reply(482, "Request Merged")
    else
        KSR.tm.t_reply(503, "Charging unavailable")
    end
    return 1
end

-- Answers to requests that imcharge_msrp() stops, by what it returns.
local refusals = {
    [-1] = { 403, "No credit" },
    [-2] = { 400, "Bad Request" },
    [-3] = { 403, "Overloaded" },
    [-4] = { 403, "Forbidden" },
    [-5] = { 481, "No such session" },
}

-- Every MSRP frame, request or response.
function ksr_msrp_event(evname)
    local passes, method = KSR.imcharge.msrp(), KSR.pv.get("$msrp(method)")
    if passes < 0 then
        -- Only a request is answered. Without a method it is a response, or a frame from 11,239 octets on: reply() writes
        -- past the end of its buffer for a path of 14 KB.
        local refusal = refusals[passes]
        if method ~= nil and refusal ~= nil then KSR.msrp.reply(refusal[1], refusal[2], "") end
        return 1
    end
    if KSR.msrp.is_reply() > 0 then
        KSR.msrp.relay()
        return 1
    end
    -- 2: neither end belongs to a charged session, or the session is over. Without WITH_OTHER_MSRP all MSRP of this proxy
    -- is charged, so it stops here.
    if passes == 2 and method ~= "REPORT" and KSR.pv.get("$def(WITH_OTHER_MSRP)") == nil then
        if method ~= nil then KSR.msrp.reply(481, "No such session", "") end
        return 1
    end
    local report = KSR.pv.gete("$hdr(Failure-Report)")
    if method == "SEND" and report ~= "no" and report ~= "partial" then
        KSR.msrp.reply(200, "OK", "")
    end
    KSR.msrp.relay()
    return 1
end

-- A message was debited, or the enabler failed for a session.
function ksr_imcharge_event(evname)
    local about = KSR.pv.gete("$imcharge(callid)") .. ": " .. KSR.pv.gete("$imcharge(reason)")
    if evname == "imcharge:debited" then
        KSR.info(KSR.pv.gete("$imcharge(account)") .. " paid " .. KSR.pv.gete("$imcharge(units)") .. " for " ..
            KSR.pv.gete("$imcharge(messageid)") .. " of " .. about .. "\n")
    else
        KSR.err("the enabler failed for " .. about .. "\n")
    end
    return 1
end

-- Prometheus asks for the numbers of imcharge, and for those of Kamailio itself. On the other sockets HTTP is nothing.
function ksr_xhttp_event(evname)
    if KSR.pv.get("$Rn") ~= "metrics" then return 1 end
    local path = KSR.pv.get("$hu")
    if path == "/metrics" then
        KSR.xhttp.xhttp_reply(200, "OK", "text/plain; version=0.0.4", KSR.pv.get("$imcharge(metrics)"))
    elseif path == "/metrics/kamailio" then
        KSR.xhttp_prom.dispatch()
    else
        KSR.xhttp.xhttp_reply(404, "Not Found", "text/plain", "/metrics or /metrics/kamailio\n")
    end
    return 1
end
