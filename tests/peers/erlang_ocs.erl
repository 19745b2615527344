%% An OCS made with Erlang/OTP's diameter: accounts in memory, asked by the line "accounts" on the standard input.
%%
%% It refuses messages that break a rule: violations of the dictionary that the stack finds, and those of the documents that
%% it lets pass. Each is answered with its code and printed after the accounts, one line each.
%%
%% Usage: erl -noshell -pa FOLDER -run erlang_ocs main PORT ORIGIN-HOST ORIGIN-REALM PROFILE ACCOUNT=BALANCE...
-module(erlang_ocs).

-export([main/1]).
-export([peer_up/4, peer_down/4, handle_request/4]).

-include_lib("diameter/include/diameter.hrl").

-define(CREDIT_CONTROL, 4).
-define(VENDOR_3GPP, 10415).

-define(INVALID_HDR_BITS, 3008).
-define(INVALID_AVP_BITS, 3009).
-define(LIMIT_REACHED, 4012).
-define(AVP_NOT_ALLOWED, 5008).
-define(SUCCESS, 2001).
-define(USER_UNKNOWN, 5030).

main([Port, Host, Realm, Profile | Accounts]) ->
    %% The standard output is for answers.
    ok = logger:remove_handler(default),
    ok = logger:add_handler(default, logger_std_h, #{config => #{type => standard_error}}),
    register(bookkeeper, spawn_link(fun() -> keep_books(maps:from_list(lists:map(fun account/1, Accounts))) end)),
    ok = diameter:start(),
    ok = diameter:start_service(?MODULE, service(Host, Realm, Profile)),
    Transport = [{transport_module, diameter_tcp},
                 {transport_config, [{ip, {127, 0, 0, 1}}, {port, list_to_integer(Port)}, {reuseaddr, true}]}],
    {ok, Reference} = diameter:add_transport(?MODULE, {listen, Transport}),
    until_it_listens(Reference),
    io:put_chars("ready\n"),
    answer_questions().

account(Text) ->
    [Name, Balance] = string:split(Text, "=", trailing),
    {Name, {list_to_integer(Balance), 0, 0}}.

service(Host, Realm, Profile) ->
    [{'Origin-Host', Host},
     {'Origin-Realm', Realm},
     {'Host-IP-Address', [{127, 0, 0, 1}]},
     {'Vendor-Id', 0},
     {'Product-Name', "erlang_ocs"},
     {'Supported-Vendor-Id', [?VENDOR_3GPP]},
     {'Auth-Application-Id', [?CREDIT_CONTROL]},
     {decode_format, map},
     %% Arities as the grammar has them, no M flag on what the grammar does not name, and text that is UTF-8.
     {strict_arities, true},
     {strict_mbit, true},
     {string_decode, true},
     %% Without it, messages between peers go by RFC 3588.
     {application, [{alias, base}, {dictionary, diameter_gen_base_rfc6733}, {module, [?MODULE, Profile]}]},
     {application, [{alias, credit_control},
                    {dictionary, credit_control},
                    {module, [?MODULE, Profile]},
                    %% What is wrong comes here too, not only what is right.
                    {request_errors, callback}]}].

until_it_listens(Reference) ->
    case diameter_tcp:ports(Reference) of
        [] -> receive after 10 -> until_it_listens(Reference) end;
        _ -> ok
    end.

answer_questions() ->
    case io:get_line("") of
        "accounts\n" ->
            io:put_chars([ask(tell), "ok\n"]),
            answer_questions();
        _ ->
            halt()
    end.

%% One process has the accounts, the holds and the violations.

keep_books(Accounts) ->
    keep_books(Accounts, #{}, []).

keep_books(Accounts, Held, Violations) ->
    receive
        {From, {book, Request}} ->
            {Answer, NewAccounts, NewHeld} = book(Request, Accounts, Held),
            From ! {bookkeeper, Answer},
            keep_books(NewAccounts, NewHeld, Violations);
        {From, {violation, Line}} ->
            From ! {bookkeeper, ok},
            keep_books(Accounts, Held, [Line | Violations]);
        {From, tell} ->
            From ! {bookkeeper, [lists:map(fun account_line/1, lists:sort(maps:to_list(Accounts))), lists:reverse(Violations)]},
            keep_books(Accounts, Held, Violations)
    end.

ask(Question) ->
    bookkeeper ! {self(), Question},
    receive {bookkeeper, Answer} -> Answer end.

account_line({Name, {Balance, Held, Debited}}) ->
    io_lib:format("account=~s balance=~b held=~b debited=~b~n", [Name, Balance, Held, Debited]).

%% Executes a request; returns its result, what is granted, and the new accounts and holds.
book(#{'Session-Id' := Session, 'CC-Request-Type' := Type} = Request, Accounts, Held) ->
    Names = [Name || #{'Subscription-Id-Data' := Name} <- maps:get('Subscription-Id', Request, [])],
    case [Name || Name <- Names, is_map_key(Name, Accounts)] of
        [] ->
            {{?USER_UNKNOWN, 0}, Accounts, Held};
        [Name | _] ->
            {Used, Wanted} = amounts(Request),
            Before = maps:get(Session, Held, 0),
            {Result, Granted, Account} = move(Type, Used, Wanted, Before, maps:get(Name, Accounts)),
            {{Result, Granted}, Accounts#{Name := Account}, holds(Session, Granted, Type, Held)}
    end.

%% INITIAL, UPDATE, TERMINATION and EVENT (RFC 8506, 8.3). What was held comes back, and what was used goes.
move(4, _, Wanted, _, {Balance, Held, Debited}) ->
    {?SUCCESS, Wanted, {Balance - Wanted, Held, Debited + Wanted}};
move(Type, Used, Wanted, Before, {Balance, Held, Debited}) ->
    Left = Balance + Before - Used,
    Granted = case Type of 3 -> 0; _ -> min(Wanted, max(Left, 0)) end,
    Result = if Type =/= 3, Wanted > 0, Granted =:= 0 -> ?LIMIT_REACHED; true -> ?SUCCESS end,
    {Result, Granted, {Left - Granted, Held - Before + Granted, Debited + Used}}.

holds(_, _, 4, Held) -> Held;
holds(Session, 0, _, Held) -> maps:remove(Session, Held);
holds(Session, Granted, _, Held) -> Held#{Session => Granted}.

%% Where units stand: in the first service, or in the command.
part(#{'Multiple-Services-Credit-Control' := [Service | _]}) -> Service;
part(Request) -> Request.

%% What is used and what is wanted.
amounts(Request) ->
    Part = part(Request),
    Used = lists:sum(lists:map(fun count/1, maps:get('Used-Service-Unit', Part, []))),
    {Used, lists:sum(lists:map(fun count/1, maps:get('Requested-Service-Unit', Part, [])))}.

%% Messages, octets or the digits of an amount. An AVP that may be missing is a list, also where it may come once only.
count(#{'CC-Service-Specific-Units' := [Messages]}) -> Messages;
count(#{'CC-Total-Octets' := [Octets]}) -> Octets;
count(#{'CC-Money' := [#{'Unit-Value' := #{'Value-Digits' := Digits}}]}) -> Digits.

%% So many of what is wanted.
granted(Count, #{'CC-Service-Specific-Units' := _}) -> #{'CC-Service-Specific-Units' => [Count]};
granted(Count, #{'CC-Total-Octets' := _}) -> #{'CC-Total-Octets' => [Count]};
granted(Count, #{'CC-Money' := [Money]}) -> #{'CC-Money' => [Money#{'Unit-Value' := #{'Value-Digits' => Count}}]}.

%% What the stack calls.

peer_up(_, _, State, _) -> State.

peer_down(_, _, State, _) -> State.

handle_request(Packet, _, {_, Caps}, Profile) ->
    case broken(Packet) ++ flags(Packet) ++ places(Packet, Profile) of
        [] ->
            ['CCR' | Request] = Packet#diameter_packet.msg,
            {Result, Granted} = ask({book, Request}),
            {reply, ['CCA' | answer(Request, Caps, Result, Granted)]};
        [{Code, _} | _] = Found ->
            [ask({violation, io_lib:format("violation=~b at=~s~n", [Of, Name])}) || {Of, Name} <- Found],
            %% errors = false: no Failed-AVP. With that of an AVP which occurs too often, the stack sends no answer.
            {reply, #diameter_packet{msg = ['answer-message' | common(Caps, Code)], errors = false}}
    end.

%% What the stack has found.
broken(#diameter_packet{errors = Errors}) ->
    lists:map(fun({Code, Avp}) -> {Code, name(Avp)}; (Code) -> {Code, "message"} end, Errors).

name(#diameter_avp{name = undefined, code = Code}) -> integer_to_list(Code);
name(#diameter_avp{name = Name}) -> atom_to_list(Name).

%% The stack looks at no flag that is right in some grammar: the P bit of the command, and M and P of each AVP.
flags(#diameter_packet{header = Header, avps = Avps}) ->
    [{?INVALID_HDR_BITS, "header"} || not Header#diameter_header.is_proxiable]
        ++ [{?INVALID_AVP_BITS, name(Avp)} || Avp <- lists:flatten(Avps), has_other_flags(Avp)].

has_other_flags(#diameter_avp{name = undefined}) ->
    false;
has_other_flags(#diameter_avp{name = Name, is_mandatory = Mandatory, need_encryption = Encrypted}) ->
    {_, Flags, _} = credit_control:avp_header(Name),
    Encrypted orelse Mandatory =/= (Flags band 16#40 =/= 0).

%% The Session-Id is the first (RFC 6733, 8.8), and plain RFC 8506 has no vendor's AVPs.
places(#diameter_packet{avps = Avps}, Profile) ->
    [First | _] = Flat = lists:flatten(Avps),
    [{?AVP_NOT_ALLOWED, name(First)} || First#diameter_avp.name =/= 'Session-Id']
        ++ [{?AVP_NOT_ALLOWED, name(Avp)}
            || Profile =:= "rfc8506", Avp <- Flat, Avp#diameter_avp.vendor_id =/= undefined].

common(#diameter_caps{origin_host = {Host, _}, origin_realm = {Realm, _}}, Result) ->
    #{'Result-Code' => Result, 'Origin-Host' => Host, 'Origin-Realm' => Realm}.

answer(Request, Caps, Result, Granted) ->
    Same = maps:with(['Session-Id', 'CC-Request-Type', 'CC-Request-Number'], Request),
    Units = case part(Request) of
                #{'Requested-Service-Unit' := [Wanted]} when Granted > 0 ->
                    #{'Granted-Service-Unit' => [granted(Granted, Wanted)]};
                _ ->
                    #{}
            end,
    Own = maps:merge(Same#{'Auth-Application-Id' => ?CREDIT_CONTROL}, common(Caps, Result)),
    case Request of
        #{'Multiple-Services-Credit-Control' := [Service | _]} ->
            Which = maps:with(['Service-Identifier', 'Rating-Group'], Service),
            Own#{'Multiple-Services-Credit-Control' => [maps:merge(Which, Units#{'Result-Code' => [Result]})]};
        _ ->
            maps:merge(Own, Units)
    end.
