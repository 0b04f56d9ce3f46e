"""The peer of benchmarks.live: python-hl7's asyncio MLLP server that commits narrow rows before each ACK.

PEER_DATABASE_URL=postgresql://… python -m benchmarks.peers.mllp_narrow PORT
"""

from __future__ import annotations

import asyncio
import os
import sys

import hl7
import psycopg
from hl7.mllp import start_hl7_server


async def _serve(port: int, url: str) -> None:
    connection = await psycopg.AsyncConnection.connect(url)
    lock = asyncio.Lock()

    async def on_connection(reader, writer) -> None:
        try:
            while not writer.is_closing():
                message = await reader.readmessage()
                rows = []
                if str(message.segment("MSH")[9][0][0]) == "ORU":
                    patient = str(message.segment("PID")[3][0][0])
                    rows = [
                        (patient, str(obx[3][0][0]), str(obx[14]), float(str(obx[5])))
                        for obx in message.segments("OBX")
                        if str(obx[2]) == "NM"
                    ]
                async with lock, connection.cursor() as cursor:
                    await cursor.executemany("insert into narrow values (%s, %s, %s, %s)", rows)
                    await connection.commit()
                writer.writemessage(message.create_ack())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, hl7.exceptions.HL7Exception):
            writer.close()

    async with await start_hl7_server(on_connection, "127.0.0.1", port, encoding="utf-8", limit=2**20) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), os.environ["PEER_DATABASE_URL"]))
