-- The routing of kamailio.cfg in Lua (KEMI). IM_SERVER is the SIP address of the IM server.

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
    -- Requests within the dialog. The module itself sees replies, BYE and CANCEL.
    if KSR.siputils.has_totag() > 0 then
        if KSR.rr.loose_route() < 0 and method ~= "ACK" then
            KSR.sl.sl_send_reply(404, "Not here")
            return 1
        end
        if method == "MESSAGE" then return charge_message() end
        KSR.tm.t_relay()
        return 1
    end
    if method == "MESSAGE" then
        KSR.pv.sets("$du", im_server())
        return charge_message()
    end
    if method ~= "INVITE" then
        KSR.sl.sl_send_reply(405, "Method Not Allowed")
        return 1
    end
    -- Authenticate the subscriber here, and remove P-Asserted-Identity unless it comes from a trusted peer.
    KSR.rr.record_route()
    -- Reserves credit. 0: the INVITE is suspended and resumes in ksr_charged. If you know the number of messages, call
    -- reserve_messages("ksr_charged", number).
    local result
    if KSR.pv.gete("$def(WITH_CHAT)") ~= "" and KSR.pv.gete("$rU") ~= "deferred" then
        -- Chat, or a large message or file, for another subscriber: each party pays for what it sends.
        result = KSR.imcharge.reserve_content("ksr_chat_charged", 0, "both")
    else
        result = KSR.imcharge.reserve("ksr_charged")
    end
    if result == 0 then
        KSR.x.exit()
    end
    -- -6: the client's a=path bypasses this relay, and bypass is "refuse".
    if result == -6 then
        KSR.sl.send_reply(488, "Not Acceptable Here")
    else
        KSR.sl.send_reply(503, "Charging unavailable")
    end
    return 1
end

function im_server()
    return (string.gsub(KSR.pv.gete("$def(IM_SERVER)"), '"', ""))
end

-- Reserves credit for a SIP MESSAGE, within a dialog or not. A 2xx debits the reservation.
function charge_message()
    -- Authenticate the subscriber here, and remove P-Asserted-Identity unless it comes from a trusted peer.
    local result = KSR.imcharge.reserve("ksr_message_charged")
    if result == 0 then
        KSR.x.exit()
    end
    -- 2: its content is free of charge, for example a delivery notification. -7: the body is larger than message_max.
    if result == 2 then
        KSR.tm.t_relay()
    elseif result == -7 then
        KSR.sl.send_reply(413, "Message Too Large")
    else
        KSR.sl.send_reply(503, "Charging unavailable")
    end
    return 1
end

-- Resumes the INVITE when credit is granted or refused. Runs in a resume worker.
function ksr_charged()
    if KSR.pv.get("$imcharge(result)") == "granted" then
        KSR.pv.sets("$du", im_server())
        KSR.tm.t_relay()
        return 1
    end
    return refuse()
end

-- Resumes the INVITE of a chat if either party has credit. Add the look-up of the called subscriber here.
function ksr_chat_charged()
    return relay_if_granted()
end

-- Resumes the MESSAGE when credit is granted or refused. Runs in a resume worker.
function ksr_message_charged()
    return relay_if_granted()
end

-- Relays a request that has credit, and refuses any other.
function relay_if_granted()
    if KSR.pv.get("$imcharge(result)") == "granted" then
        KSR.tm.t_relay()
        return 1
    end
    return refuse()
end

function refuse()
    local result, reason = KSR.pv.get("$imcharge(result)"), KSR.pv.gete("$imcharge(reason)")
    KSR.info(KSR.pv.gete("$ci") .. " refused: " .. reason .. " " .. KSR.pv.gete("$imcharge(code)") .. "\n")
    if result == "denied" then
        KSR.tm.t_reply(402, "Payment Required")
    elseif reason == "no-identity" then
        KSR.tm.t_reply(403, "Forbidden")
    elseif reason == "merged" then
        KSR.tm.t_reply(482, "Request Merged")
    else
        KSR.tm.t_reply(503, "Charging unavailable")
    end
    return 1
end

-- MSRP responses for the requests that KSR.imcharge.msrp() refuses, by its return code.
local refusals = {
    [-1] = { 403, "No credit" },
    [-2] = { 400, "Bad Request" },
    [-3] = { 403, "Overloaded" },
    [-4] = { 403, "Forbidden" },
    [-5] = { 481, "No such session" },
}

-- Every MSRP frame, request or response.
function ksr_msrp_event(evname)
    local gate, method = KSR.imcharge.msrp(), KSR.pv.get("$msrp(method)")
    if gate < 0 then
        -- Answer requests only. $msrp(method) is null for responses and for frames of 11,239 octets and more, for which
        -- reply() could overrun its buffer.
        local refusal = refusals[gate]
        if method ~= nil and refusal ~= nil then KSR.msrp.reply(refusal[1], refusal[2], "") end
        return 1
    end
    if KSR.msrp.is_reply() > 0 then
        KSR.msrp.relay()
        return 1
    end
    -- 2: the frame belongs to no charged session, or to one that has ended. Without WITH_OTHER_MSRP all MSRP of this proxy
    -- is charged, so stop it.
    if gate == 2 and method ~= "REPORT" and KSR.pv.get("$def(WITH_OTHER_MSRP)") == nil then
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

-- Called when a message was debited, the enabler failed for a session, or (with low_balance) an account is low.
function ksr_imcharge_event(evname)
    local about = KSR.pv.gete("$imcharge(callid)") .. ": " .. KSR.pv.gete("$imcharge(reason)")
    if evname == "imcharge:debited" then
        KSR.info(KSR.pv.gete("$imcharge(account)") .. " paid " .. KSR.pv.gete("$imcharge(units)") .. " for " ..
            KSR.pv.gete("$imcharge(messageid)") .. " of " .. about .. "\n")
    elseif evname == "imcharge:low-balance" then
        KSR.info(KSR.pv.gete("$imcharge(account)") .. " is low: balance " .. KSR.pv.gete("$imcharge(balance)") ..
            ", held " .. KSR.pv.gete("$imcharge(held)") .. "\n")
    else
        KSR.err("the enabler failed for " .. about .. "\n")
    end
    return 1
end

-- HTTP. /metrics: imcharge; /metrics/kamailio: Kamailio itself. Other listeners do not answer HTTP.
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
