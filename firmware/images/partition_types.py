"""Names of partition types, by the byte of an MBR and the GUID of a GPT (UEFI and Discoverable Partitions specifications)."""

MBR_TYPES = {
    0x01: "FAT12", 0x04: "FAT16", 0x05: "extended", 0x06: "FAT16", 0x07: "NTFS or exFAT", 0x0B: "FAT32",
    0x0C: "FAT32 (LBA)", 0x0E: "FAT16 (LBA)", 0x0F: "extended (LBA)", 0x82: "Linux swap", 0x83: "Linux",
    0x85: "Linux extended", 0x8E: "Linux LVM", 0xA2: "Cyclone V preloader", 0xDA: "raw data", 0xEF: "EFI system",
    0xFD: "Linux RAID",
}  # fmt: skip

GPT_TYPES = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "basic data",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "root x86-64",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "root arm64",
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3": "root arm",
    "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5": "root x86-64 verity",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "ca7d7ccb-63ed-4c53-861c-1742536059cc": "LUKS",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "extended boot loader",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "home",
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d": "variable data",
    "3de21764-95bd-54bd-a5c3-4abe786f38a8": "U-Boot environment",
}
