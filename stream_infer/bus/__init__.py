"""The bus: the only home of aiokafka and of wire bytes.

`codec` turns records into requests and outcomes into records, `consumer` makes whatever reads, `source`
reads the input partitions, `transactions` publishes outcomes together with the offsets they answer,
`follower` and `publisher` serve the compacted topics, `topics` declares what must exist, `embedded` runs a
broker as a child.
"""
