//! A WASI function in Zig, for languages.rs. The query names the task. Uses the standard library only.

const std = @import("std");

pub fn main(init: std.process.Init) !void {
    const io = init.io;
    const arena = init.arena.allocator();
    var out_buffer: [4096]u8 = undefined;
    var stdout: std.Io.File.Writer = .initStreaming(.stdout(), io, &out_buffer);
    const out = &stdout.interface;
    var in_buffer: [4096]u8 = undefined;
    var stdin: std.Io.File.Reader = .initStreaming(.stdin(), io, &in_buffer);

    const query = init.environ_map.get("QUERY_STRING") orelse "";
    if (std.mem.eql(u8, query, "echo")) {
        _ = try stdin.interface.streamRemaining(out);
    } else if (std.mem.eql(u8, query, "count")) {
        try out.print("{d}\n", .{try stdin.interface.discardRemaining()});
    } else if (std.mem.eql(u8, query, "environment")) {
        const arguments = try init.minimal.args.toSlice(arena);
        try out.print("{s} {d}\n", .{ init.environ_map.get("IT_ANSWER").?, arguments.len });
    } else if (std.mem.eql(u8, query, "clocks")) {
        const began = std.Io.Clock.awake.now(io);
        try io.sleep(.fromMilliseconds(20), .awake);
        const passed = began.durationTo(std.Io.Clock.awake.now(io)).toMilliseconds();
        const asked = try std.fmt.parseInt(i64, init.environ_map.get("HTTP_X_NOW").?, 10);
        const since = std.Io.Clock.real.now(io).toMilliseconds() - asked;
        try out.print("{} {}\n", .{ passed >= 20, since >= 0 and since < 20000 });
    } else if (std.mem.eql(u8, query, "randoms")) {
        var bytes: [16]u8 = undefined;
        try io.randomSecure(&bytes);
        try out.print("{x}\n", .{&bytes});
    } else if (std.mem.eql(u8, query, "scratch")) {
        // Not by its path: Zig resolves every path in the first open folder, which is this one.
        const folder = init.preopens.get(init.environ_map.get("TMPDIR").?).?.dir;
        const is_fresh = if (folder.access(io, "file", .{})) |_| false else |_| true;
        try out.print("{s} ", .{if (is_fresh) "fresh" else "old"});
        try folder.writeFile(io, .{ .sub_path = "file", .data = "content" });
        try folder.createDir(io, "folder", .default_dir);
        try folder.rename("file", folder, "folder/file", io);
        try out.print("{s}", .{try folder.readFileAlloc(io, "folder/file", arena, .limited(100))});
        var entries = folder.iterate();
        while (try entries.next(io)) |entry| try out.print(" [\"{s}\"]", .{entry.name});
        try out.print("\n", .{});
    } else if (std.mem.eql(u8, query, "elsewhere")) {
        const is_refused = if (std.Io.Dir.cwd().openFile(io, "../../../../../../etc/passwd", .{})) |_| false else |_| true;
        try out.print("{}\n", .{is_refused});
    } else if (std.mem.eql(u8, query, "head")) {
        try out.writeAll("Status: 201 Created\r\nContent-Type: text/csv\r\n\r\na,b\n");
    } else if (std.mem.eql(u8, query, "errors")) {
        std.debug.print("said on stderr\n", .{});
        try out.writeAll("done\n");
    } else if (std.mem.eql(u8, query, "exit")) {
        std.process.exit(3);
    } else if (std.mem.eql(u8, query, "fails")) {
        @panic("out of luck");
    } else {
        try out.print("no such deed: {s}\n", .{query});
    }
    try out.flush();
}
