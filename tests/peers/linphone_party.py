"""A party on liblinphone (Debian: liblinphone10) with what linphone-daemon has no command for: messages in CPIM, composing
indications, delivery notifications.

Usage: linphone_party.py CONFIGURATION
Reads "open URI", "compose URI", "text URI WORDS" and "quit" from standard input. Prints "ready", each received text and each
state of its own messages.
"""

import ctypes
import queue
import sys
import threading
import time

lib = ctypes.CDLL("liblinphone.so.10")
TEXT = {"linphone_chat_message_get_utf8_text", "linphone_chat_message_state_to_string"}


def call(name, *arguments):
    """Calls a function of the library whose arguments are pointers and strings."""
    function = getattr(lib, name)
    function.restype = ctypes.c_char_p if name in TEXT else ctypes.c_void_p
    return function(*(ctypes.c_void_p(value) if isinstance(value, int) else value for value in arguments))


def say(*words):
    print(*words, flush=True)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
def received(_core, room, message):
    say("received", (call("linphone_chat_message_get_utf8_text", message) or b"").decode())
    call("linphone_chat_room_mark_as_read", room)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
def changed(message, state):
    lib.linphone_chat_message_state_to_string.restype = ctypes.c_char_p
    say("state", lib.linphone_chat_message_state_to_string(state).decode())


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
def composes(_core, _room):
    say("composing")


def main():
    factory = call("linphone_factory_get")
    core = call("linphone_factory_create_core_3", factory, sys.argv[1].encode(), None, None)
    callbacks = call("linphone_factory_create_core_cbs", factory)
    lib.linphone_core_cbs_set_message_received(ctypes.c_void_p(callbacks), received)
    lib.linphone_core_cbs_set_is_composing_received(ctypes.c_void_p(callbacks), composes)
    call("linphone_core_add_callbacks", core, callbacks)
    call("linphone_im_notif_policy_enable_all", call("linphone_core_get_im_notif_policy", core))
    call("linphone_core_start", core)
    commands = queue.Queue()

    def read():
        for line in sys.stdin:
            commands.put(line.strip())
        commands.put("quit")

    threading.Thread(target=read, daemon=True).start()
    say("ready")
    while True:
        call("linphone_core_iterate", core)
        time.sleep(0.02)
        try:
            words = commands.get_nowait().split(" ", 2)
        except queue.Empty:
            continue
        if words[0] == "quit":
            return
        room = call("linphone_core_get_chat_room_from_uri", core, words[1].encode())
        call("linphone_chat_room_allow_cpim", room)
        if words[0] == "open":
            continue
        if words[0] == "compose":
            call("linphone_chat_room_compose", room)
        else:
            message = call("linphone_chat_room_create_message_from_utf8", room, words[2].encode())
            states = call("linphone_factory_create_chat_message_cbs", factory)
            lib.linphone_chat_message_cbs_set_msg_state_changed(ctypes.c_void_p(states), changed)
            call("linphone_chat_message_add_callbacks", message, states)
            call("linphone_chat_message_send", message)


main()
