"""Side by side with what people use today: `./kiln bench`."""
